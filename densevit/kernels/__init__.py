"""HLG's CPU kernels: C++ for what PyTorch does in many steps, compiled by the machine's own compiler at first use."""
