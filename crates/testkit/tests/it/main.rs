//! The tools of other tests, tested: a tool that misses a difference would let every restore pass.

mod trees;
