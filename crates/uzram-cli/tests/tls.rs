//! An NBD device on a network: its options, its certificates, and servers that take over.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::{Bench, needs};
use uzram_testkit::certificates::Authority;

const PEERS: &[&str] = &["openssl", "nbdinfo", "qemu-img"];

/// Whether a client of these certificates is served.
fn is_served(uri: &str, certificates: &Path) -> bool {
    let uri = format!(
        "{}?tls-certificates={}",
        uri.replace("127.0.0.1", "localhost"),
        certificates.display()
    );
    let output = Command::new("nbdinfo").args(["--size", &uri]).output();
    output.unwrap().status.success()
}

#[test]
fn a_device_with_tls_outlives_its_servers_and_its_certificates() {
    needs!(PEERS);
    let bench = Bench::new();
    let authority = Authority::new(bench.path("").as_path());
    let certificates = authority.vouch("server", "serverAuth");
    let client = authority.vouch("client", "clientAuth");
    // The path is relative to where the command was given.
    let create = bench
        .command(&["create", "--size", "16M", "--listen", "tcp:127.0.0.1:0"])
        .args(["--tls-verify-peer", "--tls-certificates"])
        .arg(certificates.file_name().unwrap())
        .current_dir(certificates.parent().unwrap())
        .output()
        .unwrap();
    assert!(create.status.success(), "{create:?}");
    let uri = String::from_utf8_lossy(&create.stdout).trim().to_owned();
    assert!(uri.starts_with("nbds://127.0.0.1:"), "{uri}");
    let served = || is_served(&uri, &client);
    assert!(served());
    // It trusts this server, and has nothing to show.
    assert!(!is_served(&uri, &certificates));
    let plain = uri.replace("nbds:", "nbd:");
    let output = Command::new("qemu-img")
        .args(["info", &plain])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("this server requires TLS"),
        "{said}"
    );

    bench.kill("zram0", "pid");
    assert!(served());
    bench.uzram(&["upgrade", "zram0"]);
    assert!(served());
    assert_eq!(bench.stat("zram0")["path"], uri.as_str());

    // A server that takes over finds them gone: the device stays, and who comes is refused until they are back.
    let away = certificates.with_extension("away");
    fs::rename(&certificates, &away).unwrap();
    bench.kill("zram0", "pid");
    assert_eq!(bench.stat("zram0")["path"], uri.as_str());
    assert!(!served());
    let log = fs::read_to_string(bench.run_dir().join("zram0/log")).unwrap();
    assert!(log.contains("server-cert.pem: No such file"), "{log}");
    fs::rename(&away, &certificates).unwrap();
    assert!(served());
    bench.remove_last("zram0");
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    needs!(PEERS);
    let bench = Bench::new();
    let authority = Authority::new(bench.path("").as_path());
    let good = authority.vouch("server", "serverAuth");
    let good = good.to_str().unwrap();
    let refused = |words: &[&str], args: &[&str]| {
        let said = bench.fails(2, &[&["create", "--size", "1M"], args].concat());
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    let remote = ["--listen", "tcp:192.0.2.1:0"];
    refused(&["--allow-remote", "--tls-certificates"], &remote);
    let allowed = [&remote[..], &["--allow-remote"]].concat();
    refused(&["--tls-certificates DIR", "--insecure"], &allowed);
    // Clients that do not ask for TLS would be served.
    let optional = ["--tls-certificates", good, "--tls", "on"];
    refused(
        &["without --tls on", "--insecure"],
        &[&allowed[..], &optional].concat(),
    );
    // Allowed: what is left is that this host has no such address.
    for enough in [&["--insecure"][..], &["--tls-certificates", good]] {
        refused(&["cannot listen"], &[&allowed[..], enough].concat());
    }
    refused(&["--tls needs certificates"], &["-f", "nbd", "--tls", "on"]);
    refused(
        &["--tls-verify-peer needs certificates"],
        &["-f", "nbd", "--tls-verify-peer"],
    );
    refused(
        &["server-cert.pem: No such file"],
        &["--tls-certificates", "/nowhere"],
    );
    refused(
        &["--tls-verify-peer would keep out nobody"],
        &[
            "--tls-certificates",
            good,
            "--tls",
            "on",
            "--tls-verify-peer",
        ],
    );
    refused(
        &["require", "on"],
        &["--tls-certificates", good, "--tls", "off"],
    );
    bench.assert_clean();
}

/// Who may write the key could be the server.
#[test]
fn a_key_that_others_may_write_is_refused() {
    needs!(PEERS);
    let bench = Bench::new();
    let authority = Authority::new(bench.path("").as_path());
    let good = authority.vouch("server", "serverAuth");
    let key = good.join("server-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
    let create = ["create", "--size", "1M", "--tls-certificates"];
    let said = bench.fails(2, &[&create[..], &[good.to_str().unwrap()]].concat());
    assert!(said.contains("server-key.pem"), "{said}");
    assert!(said.contains("--allow-foreign-files"), "{said}");
    bench.assert_clean();
}
