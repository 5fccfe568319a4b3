"""The machines that come with pimc: one YAML file each, registered by entry point as anybody's are."""

from pathlib import Path

_HERE = Path(__file__).parent

npu = _HERE / "npu.yaml"
npu_onnxim = _HERE / "npu-onnxim.yaml"
npu_scalesim = _HERE / "npu-scalesim.yaml"
npu_server = _HERE / "npu-server.yaml"
tpuv3 = _HERE / "tpuv3.yaml"
neupims = _HERE / "neupims.yaml"
neupims_faithful = _HERE / "neupims-faithful.yaml"
newton = _HERE / "newton.yaml"
newton_faithful = _HERE / "newton-faithful.yaml"
cent = _HERE / "cent.yaml"
cent_published = _HERE / "cent-published.yaml"
aim_pinned = _HERE / "aim-pinned.yaml"
aim_head = _HERE / "aim-head.yaml"
