//! Snapshots by way of SeaweedFS: from the device to another host's device and back to the same bytes, whatever dies
//! meanwhile.

mod common;

use std::time::{Duration, Instant};

use common::proxy::Proxy;
use common::weed::Weed;
use common::{Host, OWNER, READER, Running, ended_by, noise, refused, signal, wait_until, works};
use uzram_testkit::peers::have;

/// What these need.
const PEERS: [&str; 2] = ["qemu-img", "weed"];

/// The arguments that add a remote.
fn add<'a>(name: &'a str, url: &'a str, endpoint: &'a str) -> [&'a str; 6] {
    ["remote", "add", name, url, "--endpoint", endpoint]
}

/// One store for what does not harm it, since it takes seconds to start.
#[test]
fn snapshots_go_by_way_of_a_store() {
    if !have("snapshots_go_by_way_of_a_store", &PEERS) {
        return;
    }
    let weed = Weed::start(&["warm", "other"]);
    let host = Host::new();
    host.works(&add("ci", "s3://warm/disks", &weed.endpoint()));
    let listed = host.works(&["remote", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["conditional"], true, "{listed}");
    let begin = Instant::now();
    let told = |what: &str| eprintln!("{what}: {:.1} s", begin.elapsed().as_secs_f32());
    a_device_comes_back_on_another_host(&weed, &host);
    told("a_device_comes_back_on_another_host");
    who_may_not_is_told(&weed, &host);
    told("who_may_not_is_told");
    of_two_hosts_with_one_tag_one_is_told(&weed);
    told("of_two_hosts_with_one_tag_one_is_told");
    what_is_interrupted_leaves_no_tag(&weed, &host);
    told("what_is_interrupted_leaves_no_tag");
    idle_pages_go_there_and_come_back(&host);
    told("idle_pages_go_there_and_come_back");
}

/// The backings in the remote.
fn backings(host: &Host) -> serde_json::Value {
    let shown = host.works(&["remote", "show", "ci", "--backings", "--json"]);
    serde_json::from_str(&shown).unwrap()
}

/// A cold tier, with the deaths of all processes that have to do with it, one after another.
fn idle_pages_go_there_and_come_back(host: &Host) {
    let mut bytes = noise(40, 24);
    let cold = ["create", "--size=24M", "--frontend=nbd", "--policy=none"];
    let with = [
        &cold[..],
        &["--private", "--backing=ci/cold", "--remote-timeout=60"],
    ];
    let uri = host.works(&with.concat()).trim_end().to_owned();
    let [id, _] = READER;
    let words = refused(
        5,
        host.with(
            [id, READER[1]],
            &[&with.concat()[..], &["--name=zram9"]].concat(),
        ),
    );
    assert!(words.contains("does not permit"), "{words}");
    host.fill(&uri, &bytes);
    host.works(&["writeback", "zram0"]);
    let stat = || -> serde_json::Value {
        serde_json::from_str(&host.works(&["stat", "--json", "zram0"])).unwrap()
    };
    assert_eq!(stat()["compr_data_size"], 0);
    let objects = backings(host)[0]["objects"].as_u64().unwrap();
    assert!((6..8).contains(&objects), "{objects} of up to 4 MiB");
    assert!(host.holds(&uri, &bytes));
    for process in host.s3_processes() {
        signal(process, "-9");
    }
    assert!(host.holds(&uri, &bytes), "uzram-s3 died");
    host.kill("zram0", "pid");
    assert!(host.holds(&uri, &bytes), "the server died");
    bytes[5 << 20..6 << 20].copy_from_slice(&noise(41, 1));
    host.fill(&uri, &bytes);
    host.works(&["writeback", "zram0"]);
    host.works(&["compact", "zram0"]);
    assert!(host.holds(&uri, &bytes));
    host.works(&["remote", "collect", "ci", "--grace=0"]);
    assert!(host.holds(&uri, &bytes));
    host.works(&["remove", "zram0"]);
    assert_eq!(backings(host), serde_json::json!([]));
    wait_until("the end of uzram-s3", || host.s3_processes().is_empty());
}

fn a_device_comes_back_on_another_host(weed: &Weed, host: &Host) {
    // So much that a segment goes in parts.
    let mut bytes = noise(1, 24);
    let uri = host.filled(&bytes);
    host.works(&["snapshot", "zram0", "ci/one", "--track"]);
    let again = host.refused(2, &["snapshot", "zram0", "ci/one"]);
    assert!(again.contains("already"), "{again}");
    let first = bytes.clone();
    bytes[5 << 20..6 << 20].copy_from_slice(&noise(2, 1));
    host.fill(&uri, &bytes);
    let before = weed.files("warm/disks/seg").len();
    host.works(&["snapshot", "zram0", "ci/two", "--since", "ci/one"]);
    assert_eq!(
        weed.files("warm/disks/seg").len(),
        before + 1,
        "one segment is new"
    );
    assert_eq!(
        weed.files("warm/.uploads"),
        [],
        "no upload in parts is left"
    );
    for shown in [
        host.works(&["remote", "show", "ci"]),
        host.works(&["snapshot", "list", "ci"]),
    ] {
        assert!(
            shown.contains("ci/one") && shown.contains("ci/two"),
            "{shown}"
        );
    }
    let checked = host.works(&["remote", "check", "ci", "--read"]);
    assert_eq!(checked.matches("good").count(), 2, "{checked}");
    host.works(&["snapshot", "verify", "ci/two"]);

    // A host that only reads, with its keys in a file.
    let other = Host::new();
    let home = other.path("home/.aws");
    std::fs::create_dir_all(&home).unwrap();
    let [id, secret] = READER;
    let text = format!("[reader]\naws_access_key_id={id}\naws_secret_access_key={secret}\n");
    std::fs::write(home.join("credentials"), text).unwrap();
    let (url, endpoint) = ("s3://warm/disks", weed.endpoint());
    let with = [
        &add("theirs", url, &endpoint)[..],
        &["--profile=reader", "--read-only"],
    ];
    works(other.bare(&with.concat()));
    for (tag, wanted) in [("theirs/one", &first), ("theirs/two", &bytes)] {
        let uri = works(other.bare(&["restore", tag, "--frontend=nbd"]));
        assert!(other.holds(uri.trim_end(), wanted), "{tag}");
    }
    let lazy = ["create", "--from", "theirs/two", "--lazy", "--frontend=nbd"];
    let uri = works(other.bare(&lazy));
    assert!(other.holds(uri.trim_end(), &bytes), "a clone");
    let words = refused(5, other.bare(&["snapshot", "zram0", "theirs/three"]));
    assert!(words.contains("--read-only"), "{words}");

    // What the second shares with the first outlives it.
    host.works(&["remote", "remove", "ci/one"]);
    // By the store's clock, whose ticks are seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let collected = host.works(&["remote", "collect", "ci", "--grace=0", "--json"]);
    let collected: serde_json::Value = serde_json::from_str(&collected).unwrap();
    assert_eq!(collected["leased"], 0, "{collected}");
    assert!(collected["removed"].as_u64().unwrap() >= 2, "{collected}");
    host.refused(2, &["restore", "ci/one", "--frontend=nbd"]);
    host.restores("ci/two", &bytes);
    let missing = &weed.files("warm/disks/idx")[0].0;
    weed.remove(missing);
    let words = host.refused(1, &["remote", "check", "ci"]);
    assert!(words.contains("is not in the store"), "{words}");
    host.refused(1, &["restore", "ci/two", "--frontend=nbd"]);
    host.works(&["remote", "remove", "ci/two"]);
    host.works(&["remove", "zram0"]);
}

fn who_may_not_is_told(weed: &Weed, host: &Host) {
    let endpoint = weed.endpoint();
    let [id, secret] = OWNER;
    let wrong = add("x", "s3://warm/disks", &endpoint);
    for (keys, said) in [
        ([id, "wrong/secret"], "SignatureDoesNotMatch"),
        (["NOBODY", secret], "InvalidAccessKeyId"),
    ] {
        let words = refused(5, host.with(keys, &wrong));
        assert!(words.contains(said), "{words}");
    }
    let words = host.refused(2, &add("x", "s3://nowhere/disks", &endpoint));
    assert!(words.contains("no such bucket"), "{words}");
    // Who may read, not write, and did not say so.
    let words = refused(5, host.with(READER, &wrong));
    assert!(words.contains("--read-only"), "{words}");
    let words = refused(5, host.with(READER, &["remote", "collect", "ci"]));
    assert!(words.contains("does not permit"), "{words}");
    // What is there is somebody else's.
    weed.write("other/precious", "theirs");
    let words = host.refused(2, &add("x", "s3://other", &endpoint));
    assert!(words.contains("precious"), "{words}");
    assert_eq!(
        host.works(&["remote", "list"]).lines().count(),
        1,
        "none was kept"
    );
}

fn of_two_hosts_with_one_tag_one_is_told(weed: &Weed) {
    let hosts = [Host::new(), Host::new()];
    for (seed, host) in (10..).zip(&hosts) {
        host.filled(&noise(seed, 4));
        let remotes = host.path("remotes");
        std::fs::create_dir_all(&remotes).unwrap();
        let config = serde_json::json!({
            "version": 1, "url": "s3://warm/disks", "endpoint": weed.endpoint(), "conditional": true,
        });
        std::fs::write(remotes.join("ci.json"), config.to_string()).unwrap();
    }
    for round in 0..2 {
        let tag = format!("ci/race-{round}");
        let both: Vec<_> = hosts
            .iter()
            .map(|host| Running::start(host.with(OWNER, &["snapshot", "zram0", &tag])))
            .collect();
        let ended: Vec<_> = both.into_iter().map(Running::end).collect();
        let won: Vec<_> = (0..2)
            .filter(|&host| ended[host].status.success())
            .collect();
        assert_eq!(won.len(), 1, "{ended:?}");
        let lost = String::from_utf8_lossy(&ended[1 - won[0]].stderr);
        assert!(
            lost.contains("by somebody else") || lost.contains("already"),
            "{lost}"
        );
        hosts[0].restores(&tag, &noise(10 + won[0] as u64, 4));
        hosts[0].works(&["remote", "remove", &tag]);
    }
}

/// An interrupt, and the deaths of either process: no tag, nothing left running, and the next try sends what is missing.
fn what_is_interrupted_leaves_no_tag(weed: &Weed, host: &Host) {
    // More segments than are sent at a time: when the first is there, one is to come.
    let bytes = noise(20, 128);
    host.filled(&bytes);
    let proxy = Proxy::start(&weed.address(), 0);
    let config = serde_json::json!({
        "version": 1, "url": "s3://warm/slow", "endpoint": proxy.endpoint(), "conditional": true,
    });
    host.works(&add("slow", "s3://warm/slow", &weed.endpoint()));
    std::fs::write(host.path("remotes/slow.json"), config.to_string()).unwrap();
    for (what, kills) in [
        ("an interrupt", "-INT"),
        ("uzram", "-9"),
        ("uzram-s3", "-9"),
    ] {
        let begin = proxy.sent();
        proxy.set_rate(4 << 20);
        let mut upload = Running::start(host.with(OWNER, &["snapshot", "zram0", "slow/x"]));
        wait_until("an upload", || {
            assert!(upload.is_running());
            match what {
                "uzram-s3" => !weed.files("warm/slow/seg").is_empty(),
                _ => proxy.sent() > begin + (4 << 20),
            }
        });
        proxy.set_rate(64 << 10);
        match what {
            "uzram-s3" => {
                let processes = host.s3_processes();
                assert_eq!(processes.len(), 1, "{processes:?}");
                signal(processes[0], kills);
            }
            _ => signal(upload.id(), kills),
        }
        let ended = upload.end();
        proxy.set_rate(0);
        let words = String::from_utf8_lossy(&ended.stderr).into_owned();
        match what {
            "an interrupt" => {
                assert_eq!(ended.status.code(), Some(1), "{words}");
                assert!(words.contains("cancelled"), "{words}");
            }
            "uzram" => assert!(ended_by(&ended, 9), "{ended:?}"),
            _ => {
                assert_eq!(ended.status.code(), Some(1), "{words}");
                assert!(
                    words.contains("uzram-s3") && words.contains("signal: 9"),
                    "{words}"
                );
            }
        }
        wait_until("the end of uzram-s3", || host.s3_processes().is_empty());
        assert_eq!(weed.files("warm/slow/tag"), [], "after {what}");
        // The device is as it was, and its server free for the next.
        host.works(&["stat", "zram0"]);
    }
    assert!(
        !weed.files("warm/slow/seg").is_empty(),
        "what came while it was slow stays"
    );
    let there = weed.files("warm/slow/seg");
    host.works(&["snapshot", "zram0", "slow/x"]);
    let then = weed.files("warm/slow/seg");
    assert!(
        there.iter().all(|part| then.contains(part)),
        "nothing is sent again"
    );
    host.works(&["remote", "check", "slow", "--read"]);
    host.restores("slow/x", &bytes);
    host.works(&["remove", "zram0"]);
}

#[test]
fn a_cold_tier_outlasts_the_death_of_the_store() {
    if !have("a_cold_tier_outlasts_the_death_of_the_store", &PEERS) {
        return;
    }
    let mut weed = Weed::start(&["warm"]);
    let host = Host::new();
    host.works(&add("ci", "s3://warm/disks", &weed.endpoint()));
    let bytes = noise(50, 16);
    let create = [
        "create",
        "--private",
        "--size=16M",
        "--frontend=nbd",
        "--policy=none",
    ];
    let cold = ["--backing=ci/cold", "--remote-timeout=90"];
    let uri = host
        .works(&[&create[..], &cold].concat())
        .trim_end()
        .to_owned();
    host.fill(&uri, &bytes);
    host.works(&["writeback", "zram0", "--max-pages=2000"]);
    // It dies, and what goes there or comes from there waits; nothing else does.
    weed.kill();
    let writes = Running::start(host.with(OWNER, &["writeback", "zram0"]));
    let begin = Instant::now();
    host.works(&["stat", "zram0"]);
    assert!(begin.elapsed() < Duration::from_secs(2));
    std::thread::sleep(Duration::from_secs(1));
    weed.start_again();
    let ended = writes.end();
    eprintln!("a writeback over the death of the store: {ended:?}");
    // Whether it was done or given up: nothing is lost, and the next one does it.
    host.works(&["writeback", "zram0"]);
    let stat = host.works(&["stat", "--json", "zram0"]);
    let stat: serde_json::Value = serde_json::from_str(&stat).unwrap();
    assert_eq!(stat["compr_data_size"], 0, "{stat}");
    assert!(host.holds(&uri, &bytes));
    host.works(&["set", "zram0", "backing=none"]);
    assert!(host.holds(&uri, &bytes));
    assert_eq!(backings(&host), serde_json::json!([]));
    host.works(&["remove", "zram0"]);
}

#[test]
fn an_upload_outlasts_the_death_of_the_store() {
    if !have("an_upload_outlasts_the_death_of_the_store", &PEERS) {
        return;
    }
    let mut weed = Weed::start(&["warm"]);
    let host = Host::new();
    let proxy = Proxy::start(&weed.address(), 0);
    host.works(&add("ci", "s3://warm/disks", &proxy.endpoint()));
    let bytes = noise(30, 64);
    host.filled(&bytes);
    let begin = proxy.sent();
    proxy.set_rate(2 << 20);
    let mut upload = Running::start(host.with(OWNER, &["snapshot", "zram0", "ci/x"]));
    wait_until("an upload", || {
        assert!(upload.is_running());
        proxy.sent() > begin + (8 << 20)
    });
    weed.kill();
    proxy.set_rate(0);
    std::thread::sleep(Duration::from_secs(1));
    assert!(upload.is_running(), "it is tried again");
    weed.start_again();
    let ended = upload.end();
    if !ended.status.success() {
        // What the store had lost for good: then it says so, has no tag, and the next try sends it.
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(weed.files("warm/disks/tag"), []);
        host.works(&["snapshot", "zram0", "ci/x"]);
    }
    host.works(&["remote", "check", "ci", "--read"]);
    host.restores("ci/x", &bytes);
    // It dies while it is read: the restore waits, or fails in words; no device has other bytes.
    proxy.set_rate(0);
    let restore = Running::start(host.with(OWNER, &["restore", "ci/x", "--frontend=nbd"]));
    weed.kill();
    std::thread::sleep(Duration::from_millis(300));
    weed.start_again();
    let ended = restore.end();
    let uri = String::from_utf8_lossy(&ended.stdout).trim_end().to_owned();
    match ended.status.success() {
        true => assert!(host.holds(&uri, &bytes)),
        false => assert_eq!(uri, "", "{ended:?}"),
    }
}
