//! Machines that SSH reaches, on a network of their own.

use anyhow::{Context, Result};
use cucumber::{given, then, when};
use testbed::{DESK, Testbed};

use super::{Rbee, Step};

impl Rbee {
    fn testbed(&self) -> Result<&Testbed> {
        self.testbed.as_ref().context("the scenario has no machines")
    }
}

#[given(regex = r#"^a queen on the desk and an empty machine "([^"]+)"$"#)]
async fn machines(world: &mut Rbee, name: String) -> Step {
    let testbed = Testbed::start(&[&name])?.context("namespaces are not permitted here")?;
    testbed.start_queen().await?;
    world.testbed = Some(testbed);
    Ok(())
}

#[given("the desk has forgotten all host keys")]
fn forget_host_keys(world: &mut Rbee) -> Step {
    world.testbed()?.sh(DESK, "rm .ssh/known_hosts")?;
    Ok(())
}

#[given(regex = r#"^the machine "([^"]+)" is a hive$"#)]
async fn is_hive(world: &mut Rbee, name: String) -> Step {
    Ok(world.testbed()?.settle(&name).await?)
}

#[when(regex = r#"^on the desk I run "rbee-keeper ([^"]+)"$"#)]
async fn run(world: &mut Rbee, line: String) -> Step {
    let run = world.testbed()?.keeper(&line).await?;
    world.keeper_runs.push(run);
    Ok(())
}

#[when(regex = r#"^the demo model runs on "([^"]+)"$"#)]
async fn employ(world: &mut Rbee, name: String) -> Step {
    world.testbed()?.employ(&name).await?;
    Ok(())
}

#[when(regex = r#"^the cable of "([^"]+)" is pulled$"#)]
fn cut(world: &mut Rbee, name: String) -> Step {
    Ok(world.testbed()?.cut(&name)?)
}

#[when(regex = r#"^the cable of "([^"]+)" is put back$"#)]
fn heal(world: &mut Rbee, name: String) -> Step {
    Ok(world.testbed()?.heal(&name)?)
}

#[then(regex = r#"^the desk shows the hive "([^"]+)" as (alive|gone)$"#)]
async fn shown_as(world: &mut Rbee, name: String, liveness: String) -> Step {
    world.testbed()?.hive_when(&name, &liveness, |hive| hive["liveness"] == *liveness).await?;
    Ok(())
}

#[then(regex = r#"^nothing of rbee is left on "([^"]+)"$"#)]
fn nothing_left(world: &mut Rbee, name: String) -> Step {
    let found = world.testbed()?.sh(&name, "find . -name 'rbee*'")?;
    ensure!(found.is_empty(), "still on {name}: {found}");
    Ok(())
}
