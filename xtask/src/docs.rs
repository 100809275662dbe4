//! `cargo xtask docs`: the pages of the book that are made of the program, and the part of its table of contents that lists
//! files. `--check` writes nothing and fails where a page is not what it would write.
//!
//! A page is made of what the program prints (its help, its attributes, its API), so that no page can say what this build
//! does not do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::sh;

/// What stands at the head of each page that is made here.
const MADE: &str = "<!-- Written by \"cargo xtask docs\". -->\n\n";

/// In SUMMARY.md, the line after which design notes are listed.
const DESIGN: &str = "# Design\n";

/// A file below `docs`, and its text.
type Page = (&'static str, String);

pub(crate) fn docs(check: bool) -> Result<()> {
    let program = build()?;
    let mut pages = vec![
        ("reference/commands.md", commands(&program)?),
        ("reference/attributes.md", attributes(&program)?),
        ("reference/algorithms.md", algorithms(&program)?),
    ];
    pages.extend(api(&program)?);
    pages.extend(device_spec(&program)?);
    pages.push(("SUMMARY.md", summary()?));
    let mut stale = Vec::new();
    for (name, text) in pages {
        let path = book().join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        match check {
            true => stale.push(name),
            false => {
                fs::write(&path, text).with_context(|| path.display().to_string())?;
                println!("wrote docs/{name}");
            }
        }
    }
    let stale = stale.join(", ");
    ensure!(
        stale.is_empty(),
        "not as the program has it: {stale}; \"cargo xtask docs\" writes them anew"
    );
    Ok(())
}

fn book() -> PathBuf {
    sh::root().join("docs")
}

/// Builds the programs as the tests do. `uzram` has the help of some commands from `uzram-bench`, which lies beside it.
fn build() -> Result<PathBuf> {
    let args = ["build", "--quiet", "--bins", "--examples"];
    sh::run(sh::cargo(&[&args[..], sh::WORKSPACE].concat()))?;
    Ok(sh::target().join("debug/uzram"))
}

/// What the program prints. None of its streams is a terminal, whose width its help would take.
fn ask(program: &Path, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).env_remove("UZRAM_LOG");
    command.stdin(Stdio::null());
    sh::output(command)
}

/// A block of text as it was printed.
fn block(kind: &str, text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    format!("```{kind}\n{}\n```\n\n", lines.join("\n"))
}

/// The program's help, and that of each command.
fn commands(program: &Path) -> Result<String> {
    let whole = ask(program, &["--help"])?;
    let mut text = format!(
        "{MADE}# Commands\n\n`uzram help COMMAND` prints the same; `uzram man DIR` writes manual pages.\n\n"
    );
    text += &block("text", &whole);
    let mut names: Vec<Vec<String>> = subcommands(&whole).map(|name| vec![name]).collect();
    names.reverse();
    while let Some(words) = names.pop() {
        let mut args: Vec<&str> = words.iter().map(String::as_str).collect();
        args.push("--help");
        let help = ask(program, &args)?;
        text += &format!("## uzram {}\n\n{}", words.join(" "), block("text", &help));
        let mut inner: Vec<Vec<String>> = subcommands(&help)
            .map(|name| [&words[..], &[name]].concat())
            .collect();
        inner.reverse();
        names.extend(inner);
    }
    Ok(text.trim_end().to_owned() + "\n")
}

/// The names below `Commands:` in a help text.
fn subcommands(help: &str) -> impl Iterator<Item = String> {
    let list = help
        .split_once("\nCommands:\n")
        .map_or("", |(_, rest)| rest);
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
}

/// Every attribute of zram's interface.
fn attributes(program: &Path) -> Result<String> {
    let table = ask(program, &["help", "attributes"])?;
    let mut text = format!(
        "{MADE}# Attributes\n\nzram's interface, as `uzram get`, `uzram set`, `uzram sysfs`, `uzram shim` and the API have it. `uzram help \
         attribute NAME`\nprints an entry; uzram-attributes(7) has all. [Differences from Linux](../differences-from-linux.md) says \
         what is not as in the kernel.\n\n| attribute | mode | |\n| --- | --- | --- |\n"
    );
    let names: Vec<&str> = table
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for line in table.lines() {
        let mut words = line.split_whitespace();
        let (name, mode) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let about: Vec<&str> = words.collect();
        text += &format!("| [{name}](#{name}) | {mode} | {} |\n", about.join(" "));
    }
    for name in names {
        let entry = ask(program, &["help", "attribute", name])?;
        let (place, rest) = entry.split_once('\n').unwrap_or((&entry, ""));
        let (path, access) = place.split_once("  ").unwrap_or((place, ""));
        text += &format!("\n## {name}\n\n`{path}`, {access}\n\n{}\n", prose(rest));
    }
    Ok(text)
}

/// Text as it is, and not as markdown.
fn prose(text: &str) -> String {
    let text = text.trim().replace('<', "&lt;").replace('*', "\\*");
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let mut line = 0;
        let words = paragraph.split_whitespace().map(|word| {
            let space = match line {
                0 => "",
                _ if line + word.len() >= 120 => {
                    line = 0;
                    "\n"
                }
                _ => " ",
            };
            line += space.len() + word.len();
            format!("{space}{word}")
        });
        words.collect::<String>()
    });
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Every driver with its parameters, from `uzram algorithms`: a line for each, and indented lines for what it takes.
fn algorithms(program: &Path) -> Result<String> {
    let list = ask(program, &["algorithms"])?;
    let mut text = format!(
        "{MADE}# Algorithms\n\nA name takes its driver of highest priority, a driver's name exactly that one. Each is a cargo feature. \
         [Choosing an\nalgorithm](../howto/algorithms.md) compares them.\n\n\
         | name | driver | priority | what | parameters |\n| --- | --- | ---: | --- | --- |\n"
    );
    let mut lines = list.lines().skip(1).peekable();
    while let Some(line) = lines.next() {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (name, driver, priority) = (word(), word(), word());
        let what: Vec<&str> = words.collect();
        let mut params = Vec::new();
        while let Some(more) = lines.next_if(|line| line.starts_with(' ')) {
            let (param, doc) = more.trim().split_once(": ").unwrap_or((more.trim(), ""));
            params.push(format!("`{param}`: {doc}"));
        }
        let (what, params) = (what.join(" "), params.join("<br>"));
        text += &format!("| {name} | `{driver}` | {priority} | {what} | {params} |\n");
    }
    Ok(text)
}

/// A daemon that is asked for its API, in a run directory of its own.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    fn start(program: &Path) -> Result<Daemon> {
        let dir = std::env::temp_dir().join(format!("uzram-docs-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let child = Command::new(program)
            .args(["--log", "error", "daemon", "--config", "/dev/null"])
            .env("UZRAM_RUN_DIR", &dir)
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Daemon { child, dir })
    }

    /// The body of an answer.
    fn get(&self, path: &str) -> Result<String> {
        // It may not listen yet.
        let options = "--silent --show-error --fail --retry 20 --retry-all-errors --unix-socket";
        let mut curl = Command::new("curl");
        curl.args(options.split(' '))
            .arg(self.dir.join("uzramd.sock"));
        curl.arg(format!("http://localhost{path}"));
        sh::output(curl)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The API: a table of its paths, its schemas, and the OpenAPI document in a file beside.
fn api(program: &Path) -> Result<Vec<Page>> {
    let document = Daemon::start(program)?.get("/v1/openapi.json")?;
    let json: Value = serde_json::from_str(&document)?;
    let mut text = format!(
        "{MADE}# API\n\n`uzramd` answers HTTP and JSON on the unix socket `/run/uzram/uzramd.sock`, of mode 0600. \
         [The daemon](../howto/daemon.md) shows\nhow to call it. [openapi.json](openapi.json) is the OpenAPI document; a running \
         daemon answers it at `/v1/openapi.json`.\n\n| method | path | what it does |\n| --- | --- | --- |\n"
    );
    let object = |value: &Value| value.as_object().cloned().unwrap_or_default();
    for (path, methods) in object(&json["paths"]) {
        for (method, operation) in object(&methods) {
            let summary = operation["summary"].as_str().unwrap_or_default();
            let method = method.to_uppercase();
            text += &format!("| {method} | `{path}` | {} |\n", cell(summary));
        }
    }
    for (name, schema) in object(&json["components"]["schemas"]) {
        text += &format!("\n## {name}\n\n{}", schema_text(&schema));
    }
    let document = serde_json::to_string_pretty(&json)? + "\n";
    Ok(vec![
        ("reference/api.md", text),
        ("reference/openapi.json", document),
    ])
}

/// Text that a table's cell can hold.
fn cell(text: &str) -> String {
    let text = text.replace('|', "\\|").replace('<', "&lt;");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A JSON schema in words: what it is, and a table of its properties, of each of its forms.
fn schema_text(schema: &Value) -> String {
    let mut text = String::new();
    if let Some(about) = schema["description"].as_str() {
        text += &format!("{}\n\n", prose(about));
    }
    for form in forms(schema) {
        let Some(properties) = form["properties"].as_object() else {
            text += &format!("{}\n\n", kind(form));
            continue;
        };
        let about = form["description"].as_str().filter(|_| form != schema);
        text += &about.map_or(String::new(), |about| format!("{}\n\n", prose(about)));
        text += "| property | type | what |\n| --- | --- | --- |\n";
        text += &rows(form, properties, "");
        text.push('\n');
    }
    text.trim_end().to_owned() + "\n"
}

/// A row for each property, and below it those of its own properties.
fn rows(schema: &Value, properties: &Map<String, Value>, above: &str) -> String {
    let required = schema["required"].as_array();
    let required = |name| required.is_some_and(|names| names.iter().any(|one| one == name));
    let mut text = String::new();
    for (name, property) in properties {
        let about = cell(property["description"].as_str().unwrap_or_default());
        let must = match required(name) {
            true => ", required",
            false => "",
        };
        let default = match &property["default"] {
            Value::Null => String::new(),
            default => format!(", default `{default}`"),
        };
        let kind = cell(&kind(property));
        text += &format!("| `{above}{name}` | {kind}{must}{default} | {about} |\n");
        for form in forms(property) {
            if let Some(inner) = form["properties"].as_object() {
                text += &rows(form, inner, &format!("{above}{name}."));
            }
        }
    }
    text
}

/// The forms that a value may have: those of `oneOf` and its like, or the schema itself.
fn forms(schema: &Value) -> Vec<&Value> {
    let several = ["oneOf", "anyOf", "allOf"]
        .into_iter()
        .find_map(|key| schema[key].as_array());
    several.map_or(vec![schema], |several| {
        several.iter().flat_map(forms).collect()
    })
}

/// The type of a value, in words.
fn kind(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.rsplit('/').next().unwrap_or(target);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    if let Some(value) = schema.get("const") {
        return format!("`{value}`");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" && schema["items"].is_object() => {
            format!("array of {}", kind(&schema["items"]))
        }
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.join(" or ")
        }
        _ => match forms(schema).as_slice() {
            [one] if *one == schema => "any".into(),
            several => {
                let kinds: Vec<String> = several.iter().map(|form| kind(form)).collect();
                kinds.join(" or ")
            }
        },
    }
}

/// What a device is as a type: the schema that the program prints.
fn device_spec(program: &Path) -> Result<Vec<Page>> {
    let schema = ask(program, &["create", "--schema"])?;
    let json: Value = serde_json::from_str(&schema)?;
    let mut text = format!(
        "{MADE}# The device spec\n\nWhat a device is, as a type. The command line, uzram.toml, zram-generator.conf and the API are \
         made into it; server\nand keeper read it. `uzram create --schema` prints the JSON schema; \
         [device-spec.json](device-spec.json) is the same as a file.\n\n"
    );
    text += &schema_text(&json);
    for key in ["$defs", "definitions"] {
        for (name, schema) in json[key].as_object().into_iter().flatten() {
            text += &format!("\n## {name}\n\n{}", schema_text(schema));
        }
    }
    Ok(vec![
        ("reference/device-spec.md", text),
        ("reference/device-spec.json", schema),
    ])
}

/// SUMMARY.md with the design notes that there are, by number.
fn summary() -> Result<String> {
    let text = fs::read_to_string(book().join("SUMMARY.md"))?;
    let (head, _) = text
        .split_once(DESIGN)
        .context("SUMMARY.md has no '# Design'")?;
    let mut text = head.to_owned();
    text += &format!("{DESIGN}\n");
    let mut notes: Vec<PathBuf> = fs::read_dir(book().join("design"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    notes.sort();
    for path in notes {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let note = fs::read_to_string(&path)?;
        let title = note.lines().find_map(|line| line.strip_prefix("# "));
        let title = title.with_context(|| format!("{name} has no title"))?;
        text += &format!("- [{title}](design/{name})\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_help_text_names_its_commands() {
        let help = "Usage: x\n\nCommands:\n  create  Make\n          a device\n  list    List\n\nOptions:\n  -h  Help\n";
        let names: Vec<String> = subcommands(help).collect();
        assert_eq!(names, ["create", "list"]);
        assert_eq!(subcommands("Usage: x\n").count(), 0);
    }

    #[test]
    fn a_schema_is_a_table_of_its_properties() {
        let schema = serde_json::json!({"description": "A *thing*", "anyOf": [
            {"properties": {"size": {"$ref": "#/$defs/Size", "description": "How | much"}, "on": {"type": ["boolean", "null"]}},
             "required": ["size"]},
            {"properties": {"swap": {"type": "object", "properties": {"reserve": {"type": "integer", "default": 7}}}}},
            {"type": "string"},
        ]});
        let text = schema_text(&schema);
        for wanted in [
            "A \\*thing\\*\n",
            "| `size` | [Size](#size), required | How \\| much |",
            "| `on` | boolean or null |  |",
            "| `swap.reserve` | integer, default `7` |  |",
            "\nstring\n",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}
