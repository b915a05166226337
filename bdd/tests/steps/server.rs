//! Servers of others.

use cucumber::{given, when};
use test_cluster::Cluster;

use super::{Rbee, Step};

#[given("somebody else's server with the demo model")]
async fn server_with_model(world: &mut Rbee) -> Step {
    let server = Cluster::builder().integrated().start().await?;
    server.import_demo_model().await?;
    server.spawn_worker().await?;
    world.server = Some(server);
    Ok(())
}

#[when("somebody else's server ends")]
fn server_ends(world: &mut Rbee) {
    world.server = None;
}
