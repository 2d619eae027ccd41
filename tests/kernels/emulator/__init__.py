"""An emulator of the PTX that Triton compiles the kernels to, in numpy.

Every thread of the grid runs in lockstep, one numpy lane each, with checks that no GPU makes:

* `ptx`: the text of a kernel as instructions.
* `values`: integers of 8 to 64 bits as arrays; what the arithmetic instructions compute.
* `opcodes`: the table of instructions, each with the section of the PTX ISA that defines it;
  `memory_opcodes` adds those that touch memory and the tensor cores.
* `memory`: global memory (bounds, alignment), shared memory (uninitialized bytes, races between
  warps, asynchronous copies in flight).
* `tensor_core`: the fragments of mma.sync and wgmma.
* `flow`: which registers a wgmma in flight still owns, over every path.
* `program`: a kernel translated once and run for each launch.
* `launch`: compiles with Triton and stands in for the kernels' launcher.

It is evidence about the compiled code up to PTX. It says nothing about ptxas, about other orders
of warps than lockstep beyond the race check, about races in global memory, or about speed. Branches
that differ between threads, unknown instructions and another Triton than 3.9 are errors.
"""
