//! How queens that are attached to each other do not go round in circles.

/// The queens that something has come through, as each of them calls itself. A request that has been at
/// a queen before goes to her own workers; a queen that is asked by another one for her models leaves out
/// those of other queens, or both would list for ever what neither has any longer.
pub const VIA: &str = "x-rbee-via";
