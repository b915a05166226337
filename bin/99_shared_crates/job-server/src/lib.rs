//! Jobs with replayable event streams, as a server.
