//! The commands that print and end.
#![expect(clippy::print_stdout, reason = "printing is what these are for")]

use std::path::Path;

use llm_worker_rbee::engine::llama::{
    Runtime, build_name, devices as list, engine_folder, inspect as read,
};
use worker_contract::{MemoryNeed, ModelKind};

pub(crate) fn devices(json: bool) -> anyhow::Result<()> {
    let devices = list(&Runtime::init()?);
    if json {
        println!("{}", serde_json::to_string(&devices)?);
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    for device in devices {
        let (free, total) = (gib(device.memory_free_bytes), gib(device.memory_total_bytes));
        println!(
            "{}  {}  {}  {free:.1} of {total:.1} GiB free",
            device.id, device.backend, device.name
        );
    }
    Ok(())
}

pub(crate) fn inspect(file: &Path, json: bool) -> anyhow::Result<()> {
    let summary = read(file)?;
    if json {
        println!("{}", serde_json::to_string(&summary)?);
        return Ok(());
    }
    println!("architecture    {}", summary.architecture);
    println!("name            {}", summary.name.as_deref().unwrap_or("-"));
    println!("license         {}", summary.license.as_deref().unwrap_or("-"));
    println!("quantization    {}", summary.quantization);
    println!("parameters      {}", summary.parameters);
    println!("context length  {}", summary.context_length);
    println!("kind            {}", summary.kind.map_or("-", ModelKind::as_str));
    println!("chat template   {}", if summary.has_chat_template { "yes" } else { "no" });
    println!("size            {} bytes", summary.size_bytes);
    Ok(())
}

pub(crate) fn memory_needs(needs: &[MemoryNeed], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(needs)?);
        return Ok(());
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for need in needs {
        println!(
            "{}  {:.1} MiB: weights {:.1}, mapped from the file {:.1}, context {:.1}, computing {:.1}",
            need.device,
            mib(need.total_bytes()),
            mib(need.weights_bytes),
            mib(need.mapped_bytes),
            mib(need.context_bytes),
            mib(need.compute_bytes)
        );
    }
    Ok(())
}

pub(crate) fn version(json: bool) -> anyhow::Result<()> {
    let folder = engine_folder()?;
    let version = env!("CARGO_PKG_VERSION");
    if json {
        let text = serde_json::json!({
            "version": version, "engine": build_name(), "engine_folder": folder,
        });
        println!("{text}");
    } else {
        println!("llm-worker-rbee {version}\n{}\nlibraries in {}", build_name(), folder.display());
    }
    Ok(())
}

pub(crate) fn error(error: &anyhow::Error) {
    narration::tell(format!("error: {error:#}"));
}
