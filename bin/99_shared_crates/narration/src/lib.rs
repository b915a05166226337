//! How daemons write their logs.
