"""The text form of graphs. `show` prints one, `parse` reads it; `show(parse(show(g))) == show(g)`.

    graph tiny(%x: f32[batch, 4], cache %past: f32[batch, past, 4]) {
      dim batch = 1
      weight %w: f32[4, 4] = random
      constant %axes: i64[1] = [1]
      %y = matmul(%x, %w) : f32[batch, 4]  #phase=decode
      %all = concat(%past, %y) {axis=1} : f32[batch, past + 1, 4]
      return %all, "logits" = %y
    }

Values are `%name`, quoted (`%"a b"`) where the name has unusual characters; an absent operand is `_`. Attributes
that equal their default are left out. Facts follow as `#kind=...`, comments run from `//` to the end of the line.
Result types may be left out in hand-written text. Weights say where their contents come from (`missing`, `random`,
`external "file" offset`, or `elided "..."` for what a text does not hold); constants and small weights hold them.
"""

from pimc.ir.text.parser import parse
from pimc.ir.text.printer import show

__all__ = ["parse", "show"]
