//! Compares the model with this machine's kernel zram. `UZRAM_DIFF_SEED` and `UZRAM_DIFF_STEPS` choose another or a longer run.
//! The guest's kernel has more of zram: `guest/tests/differential.sh`. A reported skip where there is no zram, or it is in use.

mod beside_kernel;

use beside_kernel::sides::{Kernel, Liar, Model, Outcome, facts_of_all};
use beside_kernel::{differences, directed, random};

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect(name))
}

#[test]
fn interop_kernel_zram_behaves_as_the_model() {
    let (mut kernel, facts) = match Kernel::take("") {
        Ok(taken) => taken,
        Err(why) => {
            eprintln!("SKIP the model beside the kernel's zram: {why}");
            return;
        }
    };
    let mut ours = Model::new("", &facts);
    let mut wrong = directed(&mut kernel, &mut ours, &facts);
    let first = number("UZRAM_DIFF_SEED", 1);
    let count = number("UZRAM_DIFF_STEPS", 1500) as usize;
    for seed in first..first + 4 {
        wrong.extend(random(&mut kernel, &mut ours, &facts, seed, count).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn differences_are_listed_once_with_a_rule_and_a_case() {
    let wrong = differences::check_document();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn lie(
    name: &'static str,
    written: Option<&'static str>,
    lie: fn(Outcome) -> Outcome,
) -> Result<(), String> {
    let mut honest = Model::new("", &facts_of_all());
    let mut liar = Liar {
        side: Model::new("", &facts_of_all()),
        lie: (name, written, lie),
    };
    // A name that nobody has is written seldom: one sequence of this length may lack it.
    (1..5).try_for_each(|seed| random(&mut honest, &mut liar, &facts_of_all(), seed, 3000))
}

/// The model equals itself, and a wrong format, errno or count is found.
#[test]
fn lies_are_found() {
    lie("mm_stat", None, |truth| truth).unwrap();
    let narrower = |truth: Outcome| {
        let text = String::from_utf8(truth?).unwrap();
        Ok(text.replacen("  ", " ", 1).into_bytes())
    };
    let found = lie("mm_stat", None, narrower).unwrap_err();
    assert!(found.contains("Show(\"mm_stat\")"), "{found}");
    let found = lie("io_stat", None, narrower).unwrap_err();
    assert!(found.contains("Show(\"io_stat\")"), "{found}");
    let found = lie("comp_algorithm", Some("nonsense"), |_| Err(16)).unwrap_err();
    assert!(
        found.contains("code: 22") && found.contains("code: 16"),
        "{found}"
    );
    let one_less = |truth: Outcome| {
        let text = String::from_utf8(truth?).unwrap();
        let mut words: Vec<u64> = text
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        words[5] = words[5].saturating_sub(1);
        let words: Vec<String> = words.iter().map(|n| format!("{n:8}")).collect();
        Ok((words.join(" ") + "\n").into_bytes())
    };
    let found = lie("mm_stat", None, one_less).unwrap_err();
    assert!(found.contains("Show(\"mm_stat\")"), "{found}");
}

/// A listed difference that does not show is found: the model compared with itself, labelled as an old kernel.
#[test]
fn listed_differences_that_are_gone_are_found() {
    let mut facts = facts_of_all();
    let mut both = [Model::new("", &facts), Model::new("", &facts)];
    let [one, other] = &mut both;
    let gone = |wrong: &str| wrong.contains("no longer differs as");
    let wrong = directed(one, other, &facts);
    // Labelled as a new kernel with everything, it differs only in memory figures and a threshold.
    assert!(wrong.iter().all(|w| gone(w)), "{wrong:?}");
    let few = wrong.len();
    facts.release = (6, 12);
    let wrong = directed(one, other, &facts);
    assert!(wrong.iter().all(|w| gone(w)), "{wrong:?}");
    assert!(wrong.len() > few, "{wrong:?}");
    assert!(
        wrong.iter().any(|w| w.contains("debug-stat-stall")),
        "{wrong:?}"
    );
}
