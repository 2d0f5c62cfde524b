//! Whether `--memory` holds: uploads and listings at once in a control group that has 32 MiB
//! more than that, and no swap. The kernel kills what needs more.

use std::path::Path;

use anyhow::Result;

use super::control_group::ControlGroup;
use super::{Args, Row, say, start};
use crate::process;

const MEMORY_MIB: u64 = 128;
const SPARE_MIB: u64 = 32;

/// How long both go on at once, in seconds.
const SECONDS: u64 = 60;

const MIB: f64 = 1048576.0;

pub fn row(args: &Args, directory: &Path) -> Result<Row> {
    let group = ControlGroup::new((MEMORY_MIB + SPARE_MIB) << 20)?;
    let (mut server, bench) = start(args, &directory.join("memory"), |launch| {
        launch.program = "/bin/sh".into();
        launch.arguments = group.enter().to_vec();
        launch.arguments.push(args.server.display().to_string());
        launch.arguments.push("server".to_owned());
        launch.memory = format!("{MEMORY_MIB}MiB");
    })?;
    let list = format!(
        "--op list --size 128 --objects {} --prefix listed/ --concurrency 4",
        args.objects
    );
    say(&format!("memory: writing {} objects to list", args.objects));
    bench.run(&format!("{list} --keep --duration 1s"))?;
    say("memory: 64 PUTs of 64 MiB at a time, and listings");
    let lists = bench.start(&format!("{list} --prepared --duration {SECONDS}s"))?;
    let puts = bench.start(&format!(
        "--op put --size 64MiB --objects 64 --concurrency 64 --duration {SECONDS}s --timeout 2m"
    ))?;
    let ends = [lists.wait(), puts.wait()];
    let peak = process::memory(server.pid(), "VmHWM").ok();
    let of_group = group.peak_bytes();
    if let Some(status) = server.ended() {
        return Ok(the_row(args, format!("**ended: {status}**")));
    }
    let mut said = Vec::new();
    for (name, end) in ["lists", "PUTs"].into_iter().zip(ends) {
        let (figures, _) = end?;
        let (refused, failed): (Vec<_>, Vec<_>) = figures
            .errors()
            .into_iter()
            .partition(|(kind, _)| kind.starts_with("503"));
        let refused: u64 = refused.iter().map(|(_, count)| count).sum();
        let mut text = format!(
            "{} {name}, {refused} times 503",
            figures.number("/requests_succeeded")
        );
        for (kind, count) in failed {
            text.push_str(&format!(", **{count} times {kind}**"));
        }
        said.push(text);
    }
    let mib = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64 / MIB);
    said.push(format!(
        "{:.0} MiB resident at most, {:.0} MiB with the system's caches and sockets",
        mib(peak),
        mib(of_group)
    ));
    server.stop()?;
    drop(group);
    Ok(the_row(args, said.join("; ")))
}

fn the_row(args: &Args, came_of_it: String) -> Row {
    Row {
        what: format!(
            "`--memory {MEMORY_MIB}MiB` in a control group of {} MiB: 64 PUTs of 64 MiB at a time \
             beside listings of {} keys, {SECONDS} s",
            MEMORY_MIB + SPARE_MIB,
            args.objects
        ),
        cullet: came_of_it,
        other: String::new(),
        ratio: String::new(),
        target: "not killed, no error but 503",
    }
}
