//! Which devices a container may open and make: the rules of config.json, and what they come to.
//!
//! Every access bit (read, write, mknod) is decided by the last rule that matches the device and names the bit; where
//! none does, it is denied. A request is allowed when all its bits are. v2 runs the rules as a program
//! (`program.rs`); v1 keeps a default and a set of exceptions, so there the rules are reduced to that, and rules that
//! cannot be (a hole in a wildcard) are refused instead of granting more than was asked.

#![forbid(unsafe_code)]

use super::limit::Setting;
use super::limit::{asked, invalid, unsupported};
use crate::error::Result;
use oci_spec::runtime::LinuxDeviceCgroup;
use oci_spec::runtime::LinuxDeviceType;
use std::collections::BTreeMap;

/// Bits of `enum { BPF_DEVCG_ACC_MKNOD = 1, READ = 2, WRITE = 4 }` of linux/bpf.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(u8);

impl Access {
    pub(super) const ALL: Self = Self(7);

    fn parse(text: Option<&str>, path: &str) -> Result<Self> {
        let bit = |letter| match letter {
            'm' => Ok(1),
            'r' => Ok(2),
            'w' => Ok(4),
            _ => Err(invalid(path, format!("access {letter:?} is none of r, w, m"))),
        };
        match text {
            // Nothing said is everything meant, as with type, major and minor.
            None => Ok(Self::ALL),
            Some("") => Err(invalid(path, "access is empty; use r, w, m or leave it out")),
            Some(text) => text.chars().try_fold(0, |bits, letter| Ok(bits | bit(letter)?)).map(Self),
        }
    }

    pub(super) fn bits(self) -> u8 {
        self.0
    }

    fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn letters(self) -> String {
        [(2, 'r'), (4, 'w'), (1, 'm')]
            .into_iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, letter)| letter)
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Type {
    Block,
    Char,
}

/// None is "any".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pattern {
    pub(super) kind: Option<Type>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

impl Pattern {
    const ANY: Self = Self { kind: None, major: None, minor: None };

    fn covers(self, other: Self) -> bool {
        fn any_or_same<T: PartialEq>(mine: Option<T>, other: Option<T>) -> bool {
            mine.is_none() || mine == other
        }
        any_or_same(self.kind, other.kind)
            && any_or_same(self.major, other.major)
            && any_or_same(self.minor, other.minor)
    }

    fn overlaps(self, other: Self) -> bool {
        fn compatible<T: PartialEq>(mine: Option<T>, other: Option<T>) -> bool {
            mine.is_none() || other.is_none() || mine == other
        }
        compatible(self.kind, other.kind) && compatible(self.major, other.major) && compatible(self.minor, other.minor)
    }

    /// As devices.allow reads it: `c 1:*`.
    fn text(self) -> String {
        let letter = match self.kind {
            Some(Type::Block) => 'b',
            Some(Type::Char) => 'c',
            None => 'a',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        format!("{letter} {}:{}", number(self.major), number(self.minor))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) verdict: Verdict,
    pub(super) pattern: Pattern,
    pub(super) access: Access,
}

/// The bundle's rules, in order, and after them the devices that every container has.
///
/// The specification's default devices work whatever the rules say, as with runc; and device nodes may be made, since
/// making one opens nothing.
pub(super) fn rules(bundle: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    let mut rules = Vec::with_capacity(bundle.len() + DEFAULTS.len());
    for (index, rule) in bundle.iter().enumerate() {
        rules.push(read(rule, &asked(&format!("devices[{index}]")))?);
    }
    rules.extend(DEFAULTS);
    Ok(rules)
}

const DEFAULTS: [Rule; 11] = [
    allow(Type::Char, None, None, Access(1)),
    allow(Type::Block, None, None, Access(1)),
    allow(Type::Char, Some(1), Some(3), Access::ALL), // null
    allow(Type::Char, Some(1), Some(5), Access::ALL), // zero
    allow(Type::Char, Some(1), Some(7), Access::ALL), // full
    allow(Type::Char, Some(1), Some(8), Access::ALL), // random
    allow(Type::Char, Some(1), Some(9), Access::ALL), // urandom
    allow(Type::Char, Some(5), Some(0), Access::ALL), // tty
    allow(Type::Char, Some(5), Some(1), Access::ALL), // console
    allow(Type::Char, Some(5), Some(2), Access::ALL), // ptmx
    allow(Type::Char, Some(136), None, Access::ALL),  // pts/*
];

const fn allow(kind: Type, major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
    Rule { verdict: Verdict::Allow, pattern: Pattern { kind: Some(kind), major, minor }, access }
}

fn read(rule: &LinuxDeviceCgroup, path: &str) -> Result<Rule> {
    let kind = match rule.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Type::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Type::Char),
        Some(LinuxDeviceType::P) => return Err(invalid(path, "a FIFO is no device")),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(path, format!("{number} is no device number"))),
        },
    };
    Ok(Rule {
        verdict: if rule.allow() { Verdict::Allow } else { Verdict::Deny },
        pattern: Pattern { kind, major: number(rule.major())?, minor: number(rule.minor())? },
        access: Access::parse(rule.access().as_deref(), path)?,
    })
}

impl Rule {
    /// Decides everything: no rule before it matters.
    pub(super) fn is_total(&self) -> bool {
        self.pattern == Pattern::ANY && self.access == Access::ALL
    }
}

/// Whether the rules come to "everything": then there is nothing to attach.
pub(super) fn allow_all(rules: &[Rule]) -> bool {
    let decisive = rules.iter().rposition(Rule::is_total);
    decisive.is_some_and(|at| rules[at..].iter().all(|rule| rule.verdict == Verdict::Allow))
}

/// v1's own terms: a default, and patterns that are treated otherwise.
struct Exceptions {
    default: Verdict,
    patterns: BTreeMap<Pattern, Access>,
}

/// The writes that bring a v1 devices cgroup to what the rules come to, whatever it held before.
pub(super) fn v1_settings(rules: &[Rule]) -> Result<Vec<Setting>> {
    let path = asked("devices");
    let exceptions = reduce(rules, &path)?;
    let (base, other) = match exceptions.default {
        Verdict::Deny => ("devices.deny", "devices.allow"),
        Verdict::Allow => ("devices.allow", "devices.deny"),
    };
    let mut settings = vec![Setting::new(base, "a", path.clone())];
    for (pattern, access) in exceptions.patterns {
        let value = format!("{} {}", pattern.text(), access.letters());
        settings.push(Setting::new(other, value, path.clone()));
    }
    Ok(settings)
}

fn reduce(rules: &[Rule], path: &str) -> Result<Exceptions> {
    let mut all = Exceptions { default: Verdict::Deny, patterns: BTreeMap::new() };
    for rule in rules {
        if rule.is_total() {
            all = Exceptions { default: rule.verdict, patterns: BTreeMap::new() };
            continue;
        }
        let kinds = rule.pattern.kind.map_or_else(|| vec![Type::Block, Type::Char], |kind| vec![kind]);
        for kind in kinds {
            all.apply(Pattern { kind: Some(kind), ..rule.pattern }, rule.access, rule.verdict, path)?;
        }
    }
    all.patterns.retain(|_, access| access.bits() != 0);
    all.share_wider_grants();
    Ok(all)
}

impl Exceptions {
    fn apply(&mut self, pattern: Pattern, access: Access, verdict: Verdict, path: &str) -> Result<()> {
        if verdict != self.default {
            let held = self.patterns.entry(pattern).or_insert(Access(0));
            *held = held.with(access);
            return Ok(());
        }
        for (held, bits) in &mut self.patterns {
            if pattern.covers(*held) {
                *bits = bits.without(access);
            } else if pattern.overlaps(*held) && bits.meets(access) {
                let cause = format!("cgroup v1 cannot make an exception {} to {}", pattern.text(), held.text());
                return Err(unsupported(path, cause).hint("name the devices one by one, or use a cgroup v2 host"));
            }
        }
        Ok(())
    }

    /// The kernel wants one single exception to hold all bits of a request (device_cgroup.c, match_exception), so a
    /// narrow pattern gets what wider ones grant as well.
    fn share_wider_grants(&mut self) {
        if self.default == Verdict::Allow {
            return;
        }
        let wide: Vec<_> = self.patterns.iter().map(|(pattern, access)| (*pattern, *access)).collect();
        for (pattern, access) in &mut self.patterns {
            for (_, granted) in wide.iter().filter(|(other, _)| other.covers(*pattern)) {
                *access = access.with(*granted);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Kind;

    pub(in super::super) struct Request {
        pub kind: Type,
        pub major: u32,
        pub minor: u32,
        pub access: u8,
    }

    impl Request {
        fn pattern(&self) -> Pattern {
            Pattern { kind: Some(self.kind), major: Some(self.major), minor: Some(self.minor) }
        }
    }

    /// The definition at the head of this file, word by word: the oracle of both dialects.
    pub(in super::super) fn allowed(rules: &[Rule], request: &Request) -> bool {
        [1, 2, 4].into_iter().filter(|bit| request.access & bit != 0).all(|bit| {
            let matches = |rule: &&Rule| rule.pattern.covers(request.pattern()) && rule.access.0 & bit != 0;
            rules.iter().rev().find(matches).is_some_and(|rule| rule.verdict == Verdict::Allow)
        })
    }

    /// device_cgroup.c, devcgroup_legacy_check_permission.
    fn kernel_v1(state: &Exceptions, request: &Request) -> bool {
        let mut matching = state.patterns.iter().filter(|(pattern, _)| pattern.covers(request.pattern()));
        match state.default {
            Verdict::Deny => matching.any(|(_, access)| request.access & !access.0 == 0),
            Verdict::Allow => !matching.any(|(_, access)| request.access & access.0 != 0),
        }
    }

    /// A small xorshift: the same rules in every run.
    pub(in super::super) struct Dice(pub u64);

    impl Dice {
        pub(in super::super) fn roll(&mut self, sides: u32) -> u32 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            u32::try_from(self.0 % u64::from(sides)).unwrap()
        }

        fn pick<T: Clone>(&mut self, from: &[T]) -> T {
            from[usize::try_from(self.roll(u32::try_from(from.len()).unwrap())).unwrap()].clone()
        }

        pub(in super::super) fn rules(&mut self) -> Vec<Rule> {
            (0..self.roll(9)).map(|_| self.rule()).collect()
        }

        fn rule(&mut self) -> Rule {
            let access = Access(u8::try_from(1 + self.roll(7)).unwrap());
            let verdict = self.pick(&[Verdict::Allow, Verdict::Allow, Verdict::Deny]);
            let kind = self.pick(&[None, Some(Type::Block), Some(Type::Char)]);
            let pattern = Pattern {
                kind,
                major: self.pick(&[None, Some(0), Some(1)]),
                minor: self.pick(&[None, Some(0), Some(1)]),
            };
            match self.roll(6) {
                0 => Rule { verdict, pattern: Pattern::ANY, access: Access::ALL },
                _ => Rule { verdict, pattern, access },
            }
        }
    }

    pub(in super::super) fn every_request() -> impl Iterator<Item = Request> {
        let numbers = (0..3).flat_map(|major| (0..3).map(move |minor| (major, minor)));
        numbers.flat_map(|(major, minor)| {
            [Type::Block, Type::Char]
                .into_iter()
                .flat_map(move |kind| (1..8).map(move |access| Request { kind, major, minor, access }))
        })
    }

    #[test]
    fn v1_grants_what_the_rules_grant_or_refuses_them() {
        let (mut dice, mut reduced) = (Dice(42), 0);
        for _ in 0..6_000 {
            let rules = dice.rules();
            let Ok(state) = reduce(&rules, "x") else { continue };
            reduced += 1;
            for request in every_request() {
                let (real, wanted) = (kernel_v1(&state, &request), allowed(&rules, &request));
                // Two crossing wildcards (`1:*` and `*:3`) may each grant a half; v1 then denies, never the reverse.
                assert!(!real || wanted, "{rules:?} grants {:?} {:#b}", request.pattern(), request.access);
                let crossing = state.patterns.keys().filter(|it| it.major.is_none() != it.minor.is_none()).count() > 1;
                assert!(real == wanted || crossing, "{rules:?} denies {:?} {:#b}", request.pattern(), request.access);
            }
        }
        assert!(reduced > 1_500, "only {reduced} rule lists could be reduced");
    }

    fn oci(json: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn without_rules_only_the_defaults_are_allowed() {
        let settings = v1_settings(&rules(&[]).unwrap()).unwrap();
        let lines: Vec<_> = settings.iter().map(|it| format!("{} {}", it.file, it.value)).collect();
        assert_eq!(lines[0], "devices.deny a");
        assert_eq!(lines.len(), 12);
        for wanted in
            ["devices.allow c *:* m", "devices.allow b *:* m", "devices.allow c 1:3 rwm", "devices.allow c 136:* rwm"]
        {
            assert!(lines.iter().any(|line| line == wanted), "{wanted} in {lines:?}");
        }
    }

    #[test]
    fn a_bundles_rules_come_in_order_and_the_defaults_last() {
        let bundle = oci(
            r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
            {"allow":true,"type":"b","major":8,"access":"r"},{"allow":false,"type":"c","major":1,"minor":3,"access":"w"}]"#,
        );
        let rules = rules(&bundle).unwrap();
        let request = |kind, major, minor, access| Request { kind, major, minor, access };
        for (request, wanted) in [
            (request(Type::Char, 10, 229, 6), true),
            (request(Type::Char, 10, 200, 2), false),
            (request(Type::Block, 8, 17, 2), true),
            (request(Type::Block, 8, 17, 6), false),
            (request(Type::Char, 1, 3, 6), true), // /dev/null works whatever a rule says
            (request(Type::Block, 8, 1, 3), true), // read by the rule, mknod by default
        ] {
            assert_eq!(allowed(&rules, &request), wanted, "{:?} {:#b}", request.pattern(), request.access);
            assert_eq!(kernel_v1(&reduce(&rules, "x").unwrap(), &request), wanted);
        }
    }

    #[test]
    fn everything_allowed_is_seen() {
        let privileged =
            rules(&oci(r#"[{"allow":false},{"allow":true,"type":"a","major":-1,"minor":-1,"access":"rwm"}]"#)).unwrap();
        assert!(allow_all(&privileged));
        assert_eq!(v1_settings(&privileged).unwrap()[0].file, "devices.allow");
        assert!(!allow_all(&rules(&[]).unwrap()));
        assert!(!allow_all(&rules(&oci(r#"[{"allow":true},{"allow":false,"type":"c","major":10}]"#)).unwrap()));
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused_on_v1() {
        let bundle = oci(
            r#"[{"allow":true,"type":"c","access":"rwm"},{"allow":false,"type":"c","major":10,"minor":1,"access":"w"}]"#,
        );
        let err = v1_settings(&rules(&bundle).unwrap()).unwrap_err();
        assert_eq!(err.kind, Kind::Unsupported);
        assert!(
            err.to_string()
                .starts_with("honour linux.resources.devices: cgroup v1 cannot make an exception c 10:1 to c *:*"),
            "{err}"
        );
    }

    #[test]
    fn a_wrong_rule_is_an_error_with_its_path() {
        for bad in [
            r#"{"allow":true,"type":"p"}"#,
            r#"{"allow":true,"access":"x"}"#,
            r#"{"allow":true,"access":""}"#,
            r#"{"allow":true,"major":-2}"#,
            r#"{"allow":true,"minor":4294967296}"#,
        ] {
            let err = rules(&oci(&format!(r#"[{{"allow":false}},{bad}]"#))).unwrap_err();
            assert_eq!(err.kind, Kind::Invalid);
            assert!(err.to_string().starts_with("honour linux.resources.devices[1]: "), "{bad}: {err}");
        }
    }
}
