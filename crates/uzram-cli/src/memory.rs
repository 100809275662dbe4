//! What a server does with requests about its device's memory: idle marks, recompression, writeback, size. Each may take
//! long, so they have the control socket's second thread for themselves.

use std::ops::ControlFlow;
use std::time::Duration;

use uzram::{Device, Error, Recompress, Writeback};
use uzram_control::stat::{Recompressed, WrittenBack};
use uzram_control::{Request, Response};

/// Carries a request out; `None` if it is not about memory.
pub(crate) fn handle(device: &Device, request: &Request) -> Option<Result<Response, Error>> {
    let done = |()| Response::Done;
    Some(match request {
        Request::MarkIdle { age_seconds } => device
            .mark_idle(age_seconds.map(Duration::from_secs))
            .map(|pages| Response::Marked { pages }),
        Request::TrackAges { on } => device.track_ages(*on).map(done),
        Request::Recompress(what) => recompress(device, what).map(Response::Recompressed),
        Request::Compact { max_bytes } => {
            let report = device.compact(crate::commands::compact::slice(*max_bytes));
            Ok(Response::Compacted(report.into()))
        }
        Request::SetBacking {
            path: Some(path),
            size_bytes,
        } => device.attach_backing(path, *size_bytes).map(done),
        Request::SetBacking { path: None, .. } => device.detach_backing().map(|_| Response::Done),
        Request::SetWritebackLimit { pages } => {
            device.set_writeback_limit(*pages);
            Ok(Response::Done)
        }
        Request::Writeback(what) => writeback(device, what).map(Response::WrittenBack),
        Request::Promote { pages } => {
            let pages = pages.map(|(first, end)| first..end);
            let promoted = device.promote(pages, &mut |_| ControlFlow::Continue(()));
            promoted.map(|report| Response::Promoted {
                pages: report.pages,
                bytes: report.bytes,
            })
        }
        _ => return None,
    })
}

fn recompress(device: &Device, asked: &uzram_control::Recompress) -> Result<Recompressed, Error> {
    let what = Recompress {
        kind: asked.kind.parse()?,
        priority: asked.priority,
        threshold: asked.threshold,
        max_pages: asked.max_pages,
        pages: None,
    };
    if asked.dry_run {
        let (candidates, candidate_bytes) = device.recompressible(&what)?;
        return Ok(Recompressed {
            candidates,
            candidate_bytes,
            ..Recompressed::default()
        });
    }
    let report = device.recompress(&what, &mut |_| ControlFlow::Continue(()))?;
    Ok(report.into())
}

fn writeback(device: &Device, asked: &uzram_control::Writeback) -> Result<WrittenBack, Error> {
    let pages = asked.pages.iter().map(|(first, end)| *first..*end);
    let what = Writeback {
        kind: asked.kind.parse()?,
        pages: pages.collect(),
        max_pages: asked.max_pages,
        ..Writeback::default()
    };
    if asked.dry_run {
        let (candidates, candidate_bytes) = device.writable_back(&what);
        return Ok(WrittenBack {
            candidates,
            candidate_bytes,
            ..WrittenBack::default()
        });
    }
    let report = device.writeback(&what, &mut |_| ControlFlow::Continue(()))?;
    Ok(report.into())
}
