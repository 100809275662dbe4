//! The server as a frontend: `nbd`, a socket. Clients of a server that died connect again to the same socket.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustix::process::{Resource, getrlimit};
use uzram_frontend::{
    ALLOW_UID, CapabilitySet, Front, Frontend, FrontendOption, Handover, Need, OptionKind, POLL,
    READ_ONLY, Serving, absolute_socket, allowed_uids, check_socket_path, kind_of_bind, poll_time,
};
use uzram_spec::{Failure, FrontendSpec, Result, rlimit};

use crate::{
    Error, Export, Listen, RunningServer, Server, ServerBuilder, Tls, Unavailable,
    agreement::TlsTerms,
    proto::MAX_STRING,
    settings::{DEFAULT_MAX_CONNECTIONS, DEFAULT_SEND_TIMEOUT},
    tls::TlsPolicy,
};

/// The frontend's name.
pub const FRONTEND: &str = "nbd";

/// The frontend `nbd`.
pub struct NbdFrontend;

/// Where to listen: on TCP, too.
const LISTEN: FrontendOption = FrontendOption {
    kind: OptionKind::Text(absolute),
    ..uzram_frontend::LISTEN
};

const ALLOW_REMOTE: FrontendOption = FrontendOption {
    name: "allow-remote",
    value_name: "",
    kind: OptionKind::Flag,
    help: "Allow --listen on an address that other machines reach. Needs TLS, or --insecure",
    chooses: false,
};

const INSECURE: FrontendOption = FrontendOption {
    name: "insecure",
    value_name: "",
    kind: OptionKind::Flag,
    help: "With --allow-remote, do without TLS: whoever reaches the address reads and writes the disk, and whoever is on the \
        way reads and changes what is sent",
    chooses: false,
};

const TLS_CERTIFICATES: FrontendOption = FrontendOption {
    name: "tls-certificates",
    value_name: "DIR",
    kind: OptionKind::Text(absolute_path),
    help: "Encrypt by TLS with server-cert.pem and server-key.pem of this directory, as nbdkit and QEMU have them; they are \
        read again for new clients when they change. Clients without TLS are refused, unless --tls on. Pre-shared keys are \
        not possible",
    chooses: true,
};

const TLS: FrontendOption = FrontendOption {
    name: "tls",
    value_name: "WHO",
    kind: OptionKind::Choice(&["require", "on"]),
    help: "Who uses TLS where there are certificates: all clients, or those that ask for it [default: require]",
    chooses: false,
};

const TLS_VERIFY_PEER: FrontendOption = FrontendOption {
    name: "tls-verify-peer",
    value_name: "",
    kind: OptionKind::Flag,
    help: "Serve only clients with a certificate of an authority in ca-cert.pem of the same directory that ca-crl.pem, if there \
        is one, does not revoke. Without it TLS keeps what is sent from others, and lets everybody connect",
    chooses: false,
};

const ALLOW: FrontendOption = FrontendOption {
    name: "allow",
    value_name: "ADDRESS[/BITS]",
    kind: OptionKind::List(network),
    help: "Over tcp, serve clients of this address or network and no others; repeated or separated by commas. Another one \
        is told that it may not use the disk",
    chooses: false,
};

const EXPORT: FrontendOption = FrontendOption {
    name: "export",
    value_name: "NAME",
    kind: OptionKind::Text(export_text),
    help: "The name by which clients ask for the disk; the empty name always does [default: the device's name]",
    chooses: false,
};

const DESCRIPTION: FrontendOption = FrontendOption {
    name: "description",
    value_name: "TEXT",
    kind: OptionKind::Text(export_text),
    help: "A text for people, which clients show when they list what is served",
    chooses: false,
};

const MAX_CONNECTIONS: FrontendOption = FrontendOption {
    name: "max-connections",
    value_name: "N",
    kind: OptionKind::Integer(1, 4096),
    help: "Most clients at a time, 1 to 4096. Where all places are taken, a peer (an address, on a unix socket a user) with \
        more than half of them loses its latest to newcomers of other peers; whoever gets no place is told so. A client \
        has 10 seconds to negotiate, and takes 3.6 MB at most [default: 64]",
    chooses: false,
};

const IDLE_TIMEOUT: FrontendOption = FrontendOption {
    name: "idle-timeout",
    value_name: "SECONDS",
    kind: OptionKind::Integer(0, 604_800),
    help: "Close a connection that has held no request for so long, up to 604800 seconds. A client that does not connect \
        again by itself loses its disk by that. 0 never does [default: 0]",
    chooses: false,
};

const SEND_TIMEOUT: FrontendOption = FrontendOption {
    name: "send-timeout",
    value_name: "SECONDS",
    kind: OptionKind::Integer(1, 86_400),
    help: "Close a connection whose client takes nothing of its replies for so long, 1 to 86400 seconds. A TCP client that \
        vanished is gone after 60 seconds, or after this if it is longer [default: 60]",
    chooses: false,
};

/// The options of every server, and behind them those of one kind.
macro_rules! server_options {
    ($($own:expr),*) => {
        &[
            LISTEN,
            ALLOW_REMOTE,
            INSECURE,
            TLS_CERTIFICATES,
            TLS,
            TLS_VERIFY_PEER,
            ALLOW,
            ALLOW_UID,
            READ_ONLY,
            MAX_CONNECTIONS,
            $($own),*
        ]
    };
}

/// The options of a server that offers devices of other processes, which have the frontend's others of their own.
pub const EXPORTS_OPTIONS: &[FrontendOption] = server_options!();

/// The options of the frontend.
const OPTIONS: &[FrontendOption] =
    server_options!(EXPORT, DESCRIPTION, IDLE_TIMEOUT, SEND_TIMEOUT, POLL);

/// Parses an address and makes its path absolute, since the server has another working directory.
fn absolute(text: &str, directory: &Path) -> std::result::Result<String, String> {
    let listen: Listen = text.parse().map_err(|error: Error| error.to_string())?;
    match listen {
        Listen::Unix(path) => absolute_socket(&path, directory),
        listen => Ok(listen.to_string()),
    }
}

/// Checks a text of the protocol. Clients show it as it is.
fn export_text(text: &str, _: &Path) -> std::result::Result<String, String> {
    if text.chars().any(char::is_control) {
        return Err("a text without control characters".into());
    }
    match text.len() {
        1..=MAX_STRING => Ok(text.into()),
        length => Err(format!("1 to {MAX_STRING} bytes, and there are {length}")),
    }
}

/// Reads an address or a network.
fn network(text: &str) -> std::result::Result<String, String> {
    let alone = text
        .parse()
        .map(|address: IpAddr| IpNet::from(address.to_canonical()));
    match text.parse::<IpNet>().or(alone) {
        Ok(IpNet::V6(network)) if network.addr().to_ipv4_mapped().is_some() => Err(format!(
            "IPv4 clients are known by IPv4 addresses, and '{text}' is a mapped one"
        )),
        Ok(network) => Ok(network.trunc().to_string()),
        Err(_) => Err(format!(
            "an address or a network such as 192.0.2.0/24 or 2001:db8::/32, and '{text}' is none"
        )),
    }
}

/// Makes a path absolute, which is stored as text.
fn absolute_path(text: &str, directory: &Path) -> std::result::Result<String, String> {
    if text.is_empty() {
        return Err("a path".into());
    }
    let path = directory.join(text);
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("the path {path:?} is not UTF-8"))
}

/// The directory of certificates, and whether clients need one of their own.
fn certificates(spec: &FrontendSpec) -> Option<(&Path, bool)> {
    let directory = spec.text(TLS_CERTIFICATES.name)?;
    Some((Path::new(directory), spec.flag(TLS_VERIFY_PEER.name)))
}

/// Whether no client is served without TLS.
fn requires_tls(spec: &FrontendSpec) -> bool {
    certificates(spec).is_some() && spec.text(TLS.name) != Some("on")
}

/// All that is wrong with options of which each by itself is possible: places where nobody can listen, options that say nothing
/// without others, certificates that are no good.
pub fn faults(spec: &FrontendSpec) -> Vec<Failure> {
    let checks = [check_listen(spec), check_allow(spec), check_tls(spec)];
    checks.into_iter().filter_map(Result::err).collect()
}

/// Refuses an address where nobody can listen, or nobody should.
fn check_listen(spec: &FrontendSpec) -> Result {
    let Some(given) = spec.text(LISTEN.name) else {
        return Ok(());
    };
    let listen: Listen = given.parse()?;
    listen.check(spec.flag(ALLOW_REMOTE.name))?;
    check_remote(spec, &listen)
}

/// Why no client of a server with these options could have a device that is served with those; `None`: some can. Where
/// certificates cannot be read the one whose they are says so.
pub fn lacking_tls(server: &FrontendSpec, device: &FrontendSpec) -> Option<String> {
    let demanded = tls_policy(device).demanded().ok()?;
    let shown = tls_policy(server).shown().ok()?;
    TlsTerms::lacking(demanded.as_ref(), shown.as_ref()).map(str::to_owned)
}

/// What the options say of TLS. Files are not read.
fn tls_policy(spec: &FrontendSpec) -> TlsPolicy {
    let Some((directory, verify_clients)) = certificates(spec) else {
        return TlsPolicy::Off;
    };
    let tls = Tls::from_directory_unread(directory, verify_clients);
    match requires_tls(spec) {
        true => TlsPolicy::Require(tls),
        false => TlsPolicy::On(tls),
    }
}

/// Refuses an option that says nothing of this address.
fn check_allow(spec: &FrontendSpec) -> Result {
    let has = |option: &FrontendOption| spec.options.contains_key(option.name);
    match given(spec) {
        Some(Listen::Tcp(addr)) if has(&ALLOW_UID) => Err(Error::UsersOverTcp { addr }.into()),
        Some(Listen::Tcp(_)) => Ok(()),
        _ if has(&ALLOW) => Err(Failure::usage("--allow is for clients over tcp")
            .with_hint("with --listen tcp:ADDRESS, or with --allow-uid for users")),
        _ => Ok(()),
    }
}

/// Refuses options that only mean something with others, and certificates that are no good.
fn check_tls(spec: &FrontendSpec) -> Result {
    let Some((directory, verify_clients)) = certificates(spec) else {
        let alone = [TLS.name, TLS_VERIFY_PEER.name];
        return match alone.iter().find(|name| spec.options.contains_key(**name)) {
            Some(name) => Err(Failure::usage(format!("--{name} needs certificates"))
                .with_hint("with --tls-certificates DIR")),
            None => Ok(()),
        };
    };
    if verify_clients && !requires_tls(spec) {
        let message = "--tls on serves clients without TLS, who show no certificate, so that --tls-verify-peer would keep out nobody";
        return Err(Failure::usage(message).with_hint("without --tls on"));
    }
    Tls::from_directory(directory, verify_clients).map_err(Error::from)?;
    Ok(())
}

/// Refuses an address that other machines reach without TLS, unless that is wanted.
fn check_remote(spec: &FrontendSpec, listen: &Listen) -> Result {
    let open = !requires_tls(spec) && !spec.flag(INSECURE.name);
    match listen {
        Listen::Tcp(address) if open && !address.ip().is_loopback() => {
            Err(Failure::usage(format!(
                "{address} is reachable from other machines, and not all clients would use TLS"
            ))
            .with_hint(match certificates(spec) {
                None => "with --tls-certificates DIR, or with --insecure",
                Some(_) => "without --tls on, or with --insecure",
            }))
        }
        _ => Ok(()),
    }
}

/// Where a description says to listen.
fn given(spec: &FrontendSpec) -> Option<Listen> {
    spec.text(LISTEN.name)?.parse().ok()
}

/// Whether only a privileged process may take that port.
fn is_low(address: &std::net::SocketAddr) -> bool {
    (1..1024).contains(&address.port())
}

/// A server set up by the options of a description.
pub fn server_builder(spec: &FrontendSpec) -> ServerBuilder {
    let seconds = |option: &FrontendOption| spec.integer(option.name).map(Duration::from_secs);
    let idle = seconds(&IDLE_TIMEOUT).filter(|limit| !limit.is_zero());
    let most = spec.small(MAX_CONNECTIONS.name);
    let builder = Server::builder()
        .allow_remote(spec.flag(ALLOW_REMOTE.name))
        .max_connections(most.unwrap_or(DEFAULT_MAX_CONNECTIONS))
        .idle_timeout(idle)
        .send_timeout(seconds(&SEND_TIMEOUT).unwrap_or(DEFAULT_SEND_TIMEOUT))
        .poll(poll_time(spec))
        // Certificates were read when the device was made. A server that takes over goes on without them, and refuses clients.
        .tls_policy(tls_policy(spec));
    // These were checked when they were read. A network that is none lets nobody in.
    let networks = spec.text(ALLOW.name).map(|networks| networks.split(','));
    let builder = networks
        .into_iter()
        .flatten()
        .map(|text| text.parse().unwrap_or(IpNet::from(IpAddr::from([0; 4]))))
        .fold(builder, ServerBuilder::allow_network);
    let uids = allowed_uids(spec).into_iter();
    uids.fold(builder, ServerBuilder::allow_uid)
}

/// Refuses more clients than this process may have open files for, beside its own and those of whoever controls it: these would
/// find nobody to answer.
fn check_files(spec: &FrontendSpec) -> Result {
    let most: usize = spec
        .small(MAX_CONNECTIONS.name)
        .unwrap_or(DEFAULT_MAX_CONNECTIONS);
    let needed = most as u64 + OWN_FILES;
    let limit = getrlimit(Resource::Nofile).current;
    match limit.filter(|limit| *limit < needed) {
        None => Ok(()),
        Some(limit) => {
            let named = rlimit::named(Resource::Nofile).unwrap_or_default();
            let fit = limit.saturating_sub(OWN_FILES);
            Err(Failure::impossible(format!(
                "{named}, and {needed} are needed for {most} clients"
            ))
            .with_hint(match fit {
                0 => "raise it by ulimit in the shell or by LimitNOFILE= in the unit".into(),
                fit => format!("raise it by ulimit in the shell or by LimitNOFILE= in the unit, or choose --max-connections {fit}"),
            }))
        }
    }
}

/// How long a client that has hung up may still be counted.
const HANGING_UP: Duration = Duration::from_millis(500);
/// Most clients that a message names.
const MAX_NAMED: usize = 3;
/// Files that a server has open beside its NBD clients, those who control it included.
const OWN_FILES: u64 = 56;

/// A device behind a socket.
struct NbdFront {
    handle: Option<RunningServer>,
    uri: String,
    listen: String,
}

fn serve(serving: &Serving<'_>, listen: &Listen) -> Result<Box<dyn Front>> {
    let name = serving.name;
    let spec = serving.spec;
    let export = spec.text(EXPORT.name).unwrap_or(name);
    let server = server_builder(spec)
        .export(
            Export::new(export, serving.device.clone())
                .description(spec.text(DESCRIPTION.name).unwrap_or_default())
                .read_only(spec.flag(READ_ONLY.name)),
        )
        .bind(listen)?;
    let (uri, listen) = (server.uri(export), server.local().to_string());
    Ok(Box::new(NbdFront {
        handle: Some(server.start()?),
        uri,
        listen,
    }))
}

impl Frontend for NbdFrontend {
    fn name(&self) -> &'static str {
        FRONTEND
    }

    fn about(&self) -> &'static str {
        "an NBD socket, for qemu, libnbd, nbd-client, fio"
    }

    fn options(&self) -> &'static [FrontendOption] {
        OPTIONS
    }

    fn check(&self, spec: &FrontendSpec) -> Result {
        faults(spec).into_iter().next().map_or(Ok(()), Err)
    }

    fn has_node(&self) -> bool {
        false
    }

    fn clients_follow(&self) -> bool {
        true
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn allocates(&self, spec: &FrontendSpec) -> bool {
        certificates(spec).is_some()
    }

    fn handover(&self) -> Handover {
        Handover::Reconnects
    }

    fn poll(&self, spec: &FrontendSpec) -> Option<Duration> {
        Some(poll_time(spec))
    }

    /// None but for a low port.
    fn capabilities(&self, spec: &FrontendSpec) -> CapabilitySet {
        match given(spec) {
            Some(Listen::Tcp(address)) if is_low(&address) => CapabilitySet::NET_BIND_SERVICE,
            _ => CapabilitySet::empty(),
        }
    }

    fn opens(&self, spec: &FrontendSpec) -> Vec<PathBuf> {
        let mut files = match given(spec) {
            Some(Listen::Unix(path)) => vec![path],
            _ => Vec::new(),
        };
        if let Some((directory, verify_clients)) = certificates(spec) {
            files.extend(Tls::from_directory_unread(directory, verify_clients).files());
        }
        files
    }

    fn claims(&self, spec: &FrontendSpec) -> Vec<(&'static str, String)> {
        match given(spec) {
            // A free port, whichever.
            Some(Listen::Tcp(address)) if address.port() == 0 => Vec::new(),
            // However its path is written.
            Some(Listen::Unix(path)) => {
                let path: PathBuf = path.components().collect();
                vec![(LISTEN.name, Listen::Unix(path).to_string())]
            }
            Some(listen) => vec![(LISTEN.name, listen.to_string())],
            None => Vec::new(),
        }
    }

    fn probe(&self) -> std::result::Result<(), Need> {
        Ok(())
    }

    fn start(&self, serving: &Serving<'_>) -> Result<Box<dyn Front>> {
        check_files(serving.spec)?;
        let listen = match serving.spec.text(LISTEN.name) {
            Some(given) => given.parse()?,
            None => {
                let path = serving.file("nbd.sock");
                let shorter =
                    "with --listen unix:PATH and a shorter path, or a shorter UZRAM_RUN_DIR";
                check_socket_path(&path).map_err(|why| Failure::usage(why).with_hint(shorter))?;
                Listen::Unix(path)
            }
        };
        serve(serving, &listen)
    }

    fn resume(&self, serving: &Serving<'_>, word: &str) -> Result<Box<dyn Front>> {
        serve(serving, &word.parse()?)
    }
}

impl Front for NbdFront {
    fn path(&self) -> String {
        self.uri.clone()
    }

    fn resume_word(&self) -> String {
        self.listen.clone()
    }

    fn hold_idle(&self) -> Result<Option<File>> {
        let uri = &self.uri;
        let connected = || {
            let handle = self.handle.as_ref();
            handle.map_or_else(Vec::new, RunningServer::peers)
        };
        // Who has just hung up is still here until its thread has noticed.
        let begin = Instant::now();
        let mut peers = connected();
        while !peers.is_empty() && begin.elapsed() < HANGING_UP {
            std::thread::sleep(Duration::from_millis(5));
            peers = connected();
        }
        let clients = match peers.len() {
            0 => return Ok(None),
            1 => "1 NBD client is".into(),
            n => format!("{n} NBD clients are"),
        };
        let mut named = peers[..peers.len().min(MAX_NAMED)].join(", ");
        if peers.len() > MAX_NAMED {
            named.push_str(", ...");
        }
        let message = format!("{uri} is in use: {clients} connected: {named}");
        Err(Failure::busy(message))
    }

    fn clients(&self) -> Option<u64> {
        Some(self.connected())
    }

    fn terms(&self) -> Result<String> {
        let terms = self.handle.as_ref().map(RunningServer::terms);
        terms.unwrap_or_else(|| Err(stopped())).map_err(unavailable)
    }

    fn take_client(&self, client: OwnedFd, agreed: &str) -> Result {
        let handle = self.handle.as_ref().ok_or_else(stopped);
        let taken = handle.and_then(|handle| handle.take_client(client, agreed));
        taken.map_err(unavailable)
    }

    /// The protocol tells clients the size when they connect. A connected client keeps the size that it knows.
    fn can_resize(&self) -> Result {
        Ok(())
    }

    fn remove(&mut self) -> Result {
        self.hold_idle()?;
        self.shut_down()
    }

    fn remove_by_force(&mut self) -> Result<Vec<String>> {
        let clients = self.connected();
        self.shut_down()?;
        Ok(match clients {
            0 => Vec::new(),
            1 => vec!["disconnected 1 NBD client".into()],
            n => vec![format!("disconnected {n} NBD clients")],
        })
    }

    fn hand_over(&mut self) {
        // Requests that have arrived are answered first.
        if let Err(failure) = self.shut_down() {
            tracing::warn!("ending the NBD server: {failure}");
        }
    }
}

impl NbdFront {
    fn connected(&self) -> u64 {
        let connected = self.handle.as_ref().map(RunningServer::connections);
        connected.unwrap_or_default() as u64
    }

    fn shut_down(&mut self) -> Result {
        match self.handle.take() {
            Some(handle) => Ok(handle.shutdown()?),
            None => Ok(()),
        }
    }
}

fn stopped() -> Unavailable {
    Unavailable::Gone("the server has stopped".into())
}

/// What is gone may be there again in a moment, served by the next process.
fn unavailable(why: Unavailable) -> Failure {
    match &why {
        Unavailable::Gone(reason) => Failure::busy(reason),
        _ => Failure::impossible(why.reason()),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::NotLoopback { .. } => {
                Failure::usage(error).with_hint("with --allow-remote, and --tls-certificates DIR")
            }
            Error::UsersOverTcp { .. } => {
                Failure::usage(error).with_hint("with --listen unix:PATH")
            }
            Error::Unreachable { .. } => {
                Failure::usage(error).with_hint("--listen unix:PATH chooses the socket")
            }
            Error::Address { .. } | Error::Resolve { .. } | Error::NotASocket { .. } => {
                Failure::usage(error)
            }
            Error::Tls(_)
            | Error::NoExport
            | Error::ExportName { .. }
            | Error::DuplicateExport { .. } => Failure::usage(error),
            Error::InUse { .. } => Failure::busy(error),
            Error::Bind { source, .. } => Failure::new(kind_of_bind(source), error),
            _ => Failure::failed(error),
        }
    }
}
