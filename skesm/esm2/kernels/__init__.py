"""Element-wise work of a forward pass, compiled by LLVM for this processor. Needs the extra ``fast``."""
