//! ublk's settings against each other: each cell's throughput and 99th percentile with each setting, beside that of the
//! first one. Devices are named `SETTING-ALGORITHM`.

use anyhow::{Context, Result};

use super::runs::{Run, Runs};
use crate::output::Table;

pub(super) fn tables(runs: &Runs) -> Result<Vec<Table>> {
    let head = "cell,algorithm,setting,throughput,of the first,CPU us,of the first,p50 us,p99 us";
    let mut table = Table::new("ublk's settings", head);
    for cell in &runs.cells {
        for algorithm in ["null", "lz4"] {
            let named = |device: &String| {
                let setting = device.strip_suffix(algorithm)?.strip_suffix('-')?;
                Some((setting.to_owned(), device.clone()))
            };
            let devices: Vec<(String, String)> = runs.devices.iter().filter_map(named).collect();
            let (_, first) = devices.first().context("no devices")?;
            for (setting, device) in &devices {
                let figure = |of| runs.figure(device, cell, of);
                let run = runs.of(device, cell)?.first().context("no rounds")?;
                let median = Run {
                    iops: figure(|run| run.iops)?,
                    ..*run
                };
                table.rows.push(vec![
                    cell.to_string(),
                    algorithm.into(),
                    setting.clone(),
                    cell.rate(&median),
                    format!("{:.2}", runs.ratio(cell, device, first, |run| run.iops)?),
                    format!("{:.0}", figure(|run| run.cpu_us)?),
                    format!("{:.2}", runs.ratio(cell, device, first, |run| run.cpu_us)?),
                    format!("{:.0}", figure(|run| run.p50_us)?),
                    format!("{:.0}", figure(|run| run.p99_us)?),
                ]);
            }
        }
    }
    let caption = "Memory at the end, MiB beyond the pool";
    let mut end = Table::new(caption, "device,all - mem_used_total");
    for memory in runs.memory.iter().filter(|memory| memory.when == "end") {
        let more = memory.all.saturating_sub(memory.mem_used_total) as f64;
        let cells = vec![
            memory.device.clone(),
            format!("{:.1}", more / f64::from(1 << 20)),
        ];
        end.rows.push(cells);
    }
    Ok(vec![table, end])
}
