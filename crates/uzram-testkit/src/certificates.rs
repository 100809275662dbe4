//! Certificates for TLS, made by the program `openssl`. Whoever needs them asks [`peers`](crate::peers) for it first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority in a directory, and those whom it vouches for.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

fn openssl(dir: &Path, line: &str) {
    let output = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "openssl {line}: {output:?}");
}

impl Authority {
    /// A new one, in a directory that is there.
    pub fn new(dir: &Path) -> Self {
        openssl(
            dir,
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem -out ca-cert.pem \
             -subj /CN=authority -days 2 -addext keyUsage=critical,keyCertSign,cRLSign",
        );
        let config = "[ca]\ndefault_ca=it\n[it]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n\
                      crlnumber=crlnumber\ncrl_extensions=extensions\n[extensions]\nauthorityKeyIdentifier=keyid\n";
        fs::write(dir.join("ca.conf"), config).unwrap();
        fs::write(dir.join("index.txt"), "").unwrap();
        fs::write(dir.join("crlnumber"), "01\n").unwrap();
        Authority { dir: dir.into() }
    }

    /// A directory for `server` or `client`, as nbdkit, libnbd and QEMU want it. `usage` is an extended key usage.
    pub fn vouch(&self, who: &str, usage: &str) -> PathBuf {
        let dir = &self.dir;
        fs::write(
            dir.join("extensions"),
            format!("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage={usage}\n"),
        )
        .unwrap();
        let to = dir.join(format!("{who}-{}", fs::read_dir(dir).unwrap().count()));
        fs::create_dir(&to).unwrap();
        let (key, cert) = (
            to.join(format!("{who}-key.pem")),
            to.join(format!("{who}-cert.pem")),
        );
        let (key, cert) = (key.display(), cert.display());
        openssl(
            dir,
            &format!(
                "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {key} -out request.pem -subj /CN={who}"
            ),
        );
        openssl(
            dir,
            &format!(
                "x509 -req -in request.pem -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -out {cert} -days 2 \
                 -extfile extensions"
            ),
        );
        fs::copy(dir.join("ca-cert.pem"), to.join("ca-cert.pem")).unwrap();
        to
    }

    /// Revokes the certificate in a client's directory, and writes the list of what was revoked.
    pub fn revoke(&self, whose: &Path, list: &Path) {
        let cert = whose.join("client-cert.pem");
        let keys = "-config ca.conf -keyfile ca-key.pem -cert ca-cert.pem";
        openssl(&self.dir, &format!("ca {keys} -revoke {}", cert.display()));
        openssl(
            &self.dir,
            &format!("ca {keys} -gencrl -out {}", list.display()),
        );
    }
}
