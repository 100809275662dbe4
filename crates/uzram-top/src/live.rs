//! The terminal: keys, signals, and what a key begins.

use std::io;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGCONT, SIGINT, SIGTERM};
use uzram_control::RunDir;
use uzram_spec::{Failure, Result, printable_line};

use crate::board::COLUMNS;
use crate::sample::Sampler;
use crate::screen::View;

/// How long a message stays.
const MESSAGE: Duration = Duration::from_secs(6);
/// How often signals, samples and messages are looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// What + and - lead through, in milliseconds.
const INTERVALS: [u64; 9] = [200, 500, 1000, 2000, 3000, 5000, 10_000, 30_000, 60_000];

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Quit,
    Suspend,
    Help,
    Step(isize),
    Sort(isize),
    Reverse,
    Hold,
    Slower,
    Faster,
    Redraw,
    /// A command of `uzram` with the device's name.
    Do(&'static str),
    Cancel,
    Nothing,
}

impl Key {
    fn new(event: KeyEvent) -> Key {
        if event.modifiers.contains(KeyModifiers::CONTROL) {
            return match event.code {
                KeyCode::Char('c') => Key::Quit,
                KeyCode::Char('z') => Key::Suspend,
                KeyCode::Char('l') => Key::Redraw,
                _ => Key::Nothing,
            };
        }
        match event.code {
            KeyCode::Char('q') => Key::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => Key::Help,
            KeyCode::Up | KeyCode::Char('k') => Key::Step(-1),
            KeyCode::Down | KeyCode::Char('j') => Key::Step(1),
            KeyCode::PageUp => Key::Step(-10),
            KeyCode::PageDown => Key::Step(10),
            KeyCode::Home | KeyCode::Char('g') => Key::Step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => Key::Step(isize::MAX),
            KeyCode::Char('<') | KeyCode::Left => Key::Sort(-1),
            KeyCode::Char('>') | KeyCode::Right => Key::Sort(1),
            KeyCode::Char('r') => Key::Reverse,
            KeyCode::Char(' ') => Key::Hold,
            KeyCode::Char('+') => Key::Slower,
            KeyCode::Char('-') => Key::Faster,
            KeyCode::Char('c') => Key::Do("compact"),
            KeyCode::Char('R') => Key::Do("recompress"),
            KeyCode::Char('w') => Key::Do("writeback"),
            KeyCode::Char('p') => Key::Do("promote"),
            KeyCode::Char('x') => Key::Cancel,
            _ => Key::Nothing,
        }
    }
}

/// What is watched, and how.
pub(crate) struct Live {
    pub(crate) run: RunDir,
    pub(crate) names: Vec<String>,
    pub(crate) interval: Duration,
    pub(crate) view: View,
}

/// Set by signals, until they are dealt with.
struct Heard {
    end: Arc<AtomicBool>,
    going_on: Arc<AtomicBool>,
}

impl Heard {
    fn new() -> io::Result<Heard> {
        let heard = Heard {
            end: Arc::default(),
            going_on: Arc::default(),
        };
        // A terminal that is gone needs nothing back: SIGHUP ends the process at once.
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, heard.end.clone())?;
        }
        signal_hook::flag::register(SIGCONT, heard.going_on.clone())?;
        Ok(heard)
    }
}

impl Live {
    /// Shows the devices until somebody has seen enough. The terminal is as it was afterwards, also after a panic.
    pub(crate) fn show(mut self) -> Result {
        let heard = Heard::new()?;
        let mut terminal = ratatui::try_init()?;
        let ended = self.watch(&mut terminal, &heard);
        ratatui::try_restore()?;
        ended
    }

    fn watch(&mut self, terminal: &mut DefaultTerminal, heard: &Heard) -> Result {
        let (said, messages) = channel();
        let mut sampler = self.sampler()?;
        let mut hold = false;
        let mut message_until = None;
        let mut stale = true;
        loop {
            if heard.end.load(Ordering::Relaxed) {
                return Ok(());
            }
            if heard.going_on.swap(false, Ordering::Relaxed) {
                // Whoever was in the foreground meanwhile left the terminal as it liked.
                *terminal = ratatui::try_init()?;
                terminal.clear()?;
                stale = true;
            }
            for sample in sampler.samples.try_iter() {
                let sample = sample?;
                if !hold {
                    self.view.board.update(sample);
                    stale = true;
                }
            }
            if let Some(message) = messages.try_iter().last() {
                self.view.message = message;
                message_until = Some(Instant::now() + MESSAGE);
                sampler.ask();
                stale = true;
            }
            if message_until.is_some_and(|until| until < Instant::now()) {
                message_until = None;
                self.view.message.clear();
                stale = true;
            }
            if stale {
                self.view.about = self.about(hold);
                terminal.draw(|frame| self.view.draw(frame))?;
                stale = false;
            }
            if !event::poll(GLANCE)? {
                continue;
            }
            stale = true;
            let key = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => Key::new(key),
                _ => continue,
            };
            if self.view.help && key != Key::Quit {
                self.view.help = false;
                continue;
            }
            let columns = COLUMNS.len() as isize;
            match key {
                Key::Quit if self.view.help => self.view.help = false,
                Key::Quit => return Ok(()),
                Key::Suspend => {
                    ratatui::try_restore()?;
                    let own = rustix::process::getpid();
                    rustix::process::kill_process(own, rustix::process::Signal::TSTP)
                        .map_err(io::Error::from)?;
                }
                Key::Help => self.view.help = true,
                Key::Step(lines) => self.view.step(lines),
                Key::Sort(by) => {
                    self.view.sort = (self.view.sort as isize + by).rem_euclid(columns) as usize;
                }
                Key::Reverse => self.view.reverse = !self.view.reverse,
                Key::Hold => hold = !hold,
                Key::Slower | Key::Faster => {
                    self.interval = other_interval(self.interval, key == Key::Slower);
                    sampler = self.sampler()?;
                }
                Key::Redraw => terminal.clear()?,
                Key::Do(command) => self.begin(vec![command.into()], &said),
                Key::Cancel => self.cancel(&said),
                Key::Nothing => {}
            }
        }
    }

    fn sampler(&self) -> Result<Sampler> {
        Sampler::start(self.run.clone(), self.names.clone(), self.interval)
    }

    fn about(&self, hold: bool) -> String {
        match hold {
            true => "stands still".into(),
            false => format!("every {}", uzram_spec::short_time(self.interval)),
        }
    }

    fn cancel(&self, said: &Sender<String>) {
        let row = self.view.row();
        let job = row.and_then(|row| row.jobs.iter().find(|job| !job.cancelled));
        match job {
            None => {
                let _ = said.send("there is no job to end".into());
            }
            Some(job) => {
                let number = job.number.to_string();
                self.begin(vec!["jobs".into(), "--cancel".into(), number], said);
            }
        }
    }

    /// Has `uzram` do something to the chosen device. What it says is the message when it has ended.
    fn begin(&self, mut words: Vec<String>, said: &Sender<String>) {
        let Some(row) = self.view.row() else {
            return;
        };
        words.insert(1, row.name.clone());
        let what = words.join(" ");
        let _ = said.send(format!("{what} ..."));
        let mut command = Command::new(crate::uzram());
        command.args(&words).env("UZRAM_RUN_DIR", self.run_dir());
        command.stdin(Stdio::null());
        let said = said.clone();
        std::thread::spawn(move || {
            let message = match command.output() {
                Err(error) => format!("cannot run {}: {error}", command.get_program().display()),
                Ok(output) => {
                    let text = [&output.stdout[..], &output.stderr[..]].concat();
                    let text = String::from_utf8_lossy(&text);
                    let text = text.trim().trim_start_matches("uzram: ");
                    match (text.is_empty(), output.status.success()) {
                        (true, true) => format!("{what}: done"),
                        (true, false) => format!("{what}: {}", output.status),
                        _ => format!("{what}: {text}"),
                    }
                }
            };
            let _ = said.send(printable_line(&message).into_owned());
        });
    }

    /// Where the devices are that are shown.
    fn run_dir(&self) -> std::path::PathBuf {
        self.run.path().unwrap_or_default()
    }
}

/// The next interval up or down.
fn other_interval(now: Duration, slower: bool) -> Duration {
    let now = now.as_millis() as u64;
    let mut steps = INTERVALS.iter().copied();
    let next = match slower {
        true => steps.find(|step| *step > now),
        false => steps.rfind(|step| *step < now),
    };
    Duration::from_millis(next.unwrap_or(now))
}

/// Refuses where there is no terminal to draw on.
pub(crate) fn check_terminal() -> Result {
    use io::IsTerminal;
    match io::stdout().is_terminal() && io::stdin().is_terminal() {
        true => Ok(()),
        false => Err(Failure::usage("stdin and stdout are not a terminal")
            .with_hint("uzram top --batch prints a table at each interval")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_help_says() {
        let key = |code| Key::new(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('c')), Key::Do("compact"));
        assert_eq!(key(KeyCode::Char('q')), Key::Quit);
        assert_eq!(key(KeyCode::Down), Key::Step(1));
        let control = |c| Key::new(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL));
        assert_eq!(
            (control('c'), control('z'), control('q')),
            (Key::Quit, Key::Suspend, Key::Nothing)
        );
    }

    #[test]
    fn intervals_stay_within_their_list() {
        let mut now = Duration::from_millis(2500);
        now = other_interval(now, true);
        assert_eq!(now.as_millis(), 3000);
        for _ in 0..20 {
            now = other_interval(now, true);
        }
        assert_eq!(now.as_secs(), 60);
        for _ in 0..20 {
            now = other_interval(now, false);
        }
        assert_eq!(now.as_millis(), 200);
    }

    #[test]
    fn nothing_is_begun_without_a_device() {
        let live = Live {
            run: RunDir::new("/nonexistent"),
            names: Vec::new(),
            interval: Duration::from_secs(1),
            view: View::default(),
        };
        let (said, messages) = channel();
        live.begin(vec!["compact".into()], &said);
        assert_eq!(messages.try_iter().count(), 0);
        live.cancel(&said);
        assert_eq!(messages.try_recv().unwrap(), "there is no job to end");
    }
}
