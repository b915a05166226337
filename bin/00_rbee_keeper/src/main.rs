//! The command line of rbee.

fn main() {}
