//! One machine of rbee: its workers, its models, its devices.

fn main() {}
