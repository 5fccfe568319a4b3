"""Processing in memory: multipliers inside DRAM banks, in the styles of GDDR6-AiM and of Newton / NeuPIMs."""
