//! ublk's settings against each other: each cell's throughput and 99th percentile with each setting, beside that of the
//! first one. Devices are named `SETTING-ALGORITHM`.

use anyhow::{Context, Result};

use super::runs::Runs;
use super::table::{rate, row, table};

pub(crate) fn text(runs: &Runs) -> Result<String> {
    let mut rows = vec![row([
        "cell",
        "algorithm",
        "setting",
        "throughput",
        "of the first",
        "CPU us",
        "of the first",
        "p50 us",
        "p99 us",
    ])];
    for cell in &runs.cells {
        for algorithm in ["null", "lz4"] {
            let named = |device: &&String| {
                let setting = device.strip_suffix(algorithm)?.strip_suffix('-')?;
                Some((setting.to_owned(), (*device).clone()))
            };
            let devices: Vec<(String, String)> = runs
                .devices
                .iter()
                .filter_map(|device| named(&device))
                .collect();
            let (_, first) = devices.first().context("no devices")?;
            for (setting, device) in &devices {
                let figure = |of| runs.figure(device, cell, of);
                let run = runs.of(device, cell)?.first().context("no rounds")?;
                let median = super::runs::Run {
                    iops: figure(|run| run.iops)?,
                    ..*run
                };
                rows.push(vec![
                    cell.to_string(),
                    algorithm.into(),
                    setting.clone(),
                    rate(cell, &median),
                    format!("{:.2}", runs.ratio(cell, device, first, |run| run.iops)?),
                    format!("{:.0}", figure(|run| run.cpu_us)?),
                    format!("{:.2}", runs.ratio(cell, device, first, |run| run.cpu_us)?),
                    format!("{:.0}", figure(|run| run.p50_us)?),
                    format!("{:.0}", figure(|run| run.p99_us)?),
                ]);
            }
        }
    }
    let mut text = table(&rows);
    text += "\nMemory at the end, MiB beyond the pool:\n\n";
    let mut rows = vec![row(["device", "all - mem_used_total"])];
    for memory in runs.memory.iter().filter(|memory| memory.when == "end") {
        let more = memory.all.saturating_sub(memory.mem_used_total) as f64;
        rows.push(vec![
            memory.device.clone(),
            format!("{:.1}", more / f64::from(1 << 20)),
        ]);
    }
    text += &table(&rows);
    Ok(text)
}
