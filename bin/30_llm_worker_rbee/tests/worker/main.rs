//! Tests of the worker as a process, and of the whole chain in front of it, on the real model.

mod bare_loop;
mod installed;
mod real_model;
mod support;
mod whole_chain;
