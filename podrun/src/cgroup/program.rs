//! The v2 dialect of device rules: a program that the kernel runs at each open and mknod of a device
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`, linux/bpf.h). It answers 1 for allowed and 0 for EPERM.
//!
//! Rules are tried from the last to the first. r3 holds the access bits that no rule has decided yet: an allowing rule
//! takes its bits off, a denying rule that meets one of them ends the matter, and what is left at the end is denied.
//!
//! The kernel walks each way through a program before it takes it, so ways are what a program costs: neighbours of one type
//! ask for it once, a device is one number, and what is allowed whole leaves at once.

#![forbid(unsafe_code)]

use super::devices::{Access, Rule, Type, Verdict};

/// `struct bpf_cgroup_dev_ctx`: access << 16 | type, major, minor.
const CTX_ACCESS_TYPE: i16 = 0;
const CTX_MAJOR: i16 = 4;
const CTX_MINOR: i16 = 8;

const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Major and minor as one number, which are of twelve and twenty bits in the kernel (linux/kdev_t.h).
const DEVICE: u8 = 6;
const MINOR_BITS: u32 = 20;
const MAJOR_BITS: u32 = 12;

// The opcodes in use (instruction-set.rst); 32-bit jumps need Linux 5.1.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb7;
const AND: u8 = 0x54;
const OR: u8 = 0x4c;
const SHIFT_LEFT: u8 = 0x64;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_UNEQUAL: u8 = 0x56;
const JUMP_SOME_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

/// The instructions of the rules, each as the 64 bits that bpf(2) takes.
pub(super) fn emit(rules: &[Rule]) -> Vec<u64> {
    let mut program = vec![
        load(TYPE, CTX_ACCESS_TYPE),
        instruction(MOVE, UNDECIDED, TYPE, 0, 0),
        instruction(AND, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, UNDECIDED, 0, 0, 16),
        load(MAJOR, CTX_MAJOR),
        load(MINOR, CTX_MINOR),
        instruction(MOVE, DEVICE, MAJOR, 0, 0),
        instruction(SHIFT_LEFT, DEVICE, 0, 0, MINOR_BITS),
        instruction(OR, DEVICE, MINOR, 0, 0),
    ];
    let first = rules.iter().rposition(Rule::is_total).unwrap_or(0);
    let last_first: Vec<&Rule> = rules[first..].iter().rev().collect();
    for alike in last_first.chunk_by(|one, next| one.pattern.kind == next.pattern.kind) {
        alike.chunks(A_JUMP).for_each(|some| program.extend(of_one_type(some)));
    }
    if !last_first.last().is_some_and(|rule| rule.is_total() && rule.verdict == Verdict::Allow) {
        program.extend(answer(0));
    }
    program
}

/// So many rules, of six instructions at most, can be jumped over.
const A_JUMP: usize = 5000;

fn of_one_type(rules: &[&Rule]) -> Vec<u64> {
    let kind = rules[0].pattern.kind.map(|kind| match kind {
        Type::Block => 1, // BPF_DEVCG_DEV_BLOCK
        Type::Char => 2,  // BPF_DEVCG_DEV_CHAR
    });
    // What comes after a rule that lets everything in, nothing reaches; the kernel refuses a program with such instructions.
    let open = |rule: &&Rule| {
        rule.verdict == Verdict::Allow
            && rule.access == Access::ALL
            && rule.pattern.major.is_none()
            && rule.pattern.minor.is_none()
    };
    let count = rules.iter().position(open).map_or(rules.len(), |last| last + 1);
    let body: Vec<u64> = rules[..count].iter().flat_map(|rule| one_rule(rule)).collect();
    let condition = kind.map(|kind| instruction(JUMP_UNEQUAL, TYPE, 0, short(body.len()), kind));
    condition.into_iter().chain(body).collect()
}

/// Conditions, each of which leaves for the next rule when it does not hold, then the verdict.
fn one_rule(rule: &Rule) -> Vec<u64> {
    let conditions: Vec<(u8, u32)> = match (rule.pattern.major, rule.pattern.minor) {
        (Some(major), Some(minor)) if major >> MAJOR_BITS == 0 && minor >> MINOR_BITS == 0 => {
            vec![(DEVICE, major << MINOR_BITS | minor)]
        }
        (major, minor) => {
            let parts = [(MAJOR, major), (MINOR, minor)].into_iter();
            parts.filter_map(|(register, wanted)| Some((register, wanted?))).collect()
        }
    };
    let verdict = verdict(rule);
    let mut instructions = Vec::with_capacity(conditions.len() + verdict.len());
    for (index, &(register, wanted)) in conditions.iter().enumerate() {
        let to_next_rule = conditions.len() - index - 1 + verdict.len();
        instructions.push(instruction(JUMP_UNEQUAL, register, 0, short(to_next_rule), wanted));
    }
    instructions.extend(verdict);
    instructions
}

fn verdict(rule: &Rule) -> Vec<u64> {
    let bits = u32::from(rule.access.bits());
    let [set, exit] = answer(u32::from(rule.verdict == Verdict::Allow));
    match rule.verdict {
        Verdict::Allow if rule.access == Access::ALL => vec![set, exit],
        Verdict::Allow => {
            vec![instruction(AND, UNDECIDED, 0, 0, !bits), instruction(JUMP_UNEQUAL, UNDECIDED, 0, 2, 0), set, exit]
        }
        Verdict::Deny => {
            vec![instruction(JUMP_SOME_BIT, UNDECIDED, 0, 1, bits), instruction(JUMP, 0, 0, 2, 0), set, exit]
        }
    }
}

fn answer(verdict: u32) -> [u64; 2] {
    [instruction(MOVE_CONSTANT, VERDICT, 0, 0, verdict), instruction(EXIT, 0, 0, 0, 0)]
}

fn load(register: u8, offset: i16) -> u64 {
    instruction(LOAD_WORD, register, CONTEXT, offset, 0)
}

/// `struct bpf_insn` on a little-endian machine: code, source << 4 | destination, offset, constant.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: u32) -> u64 {
    let [o0, o1] = offset.to_le_bytes();
    let [c0, c1, c2, c3] = constant.to_le_bytes();
    u64::from_le_bytes([code, source << 4 | destination, o0, o1, c0, c1, c2, c3])
}

/// Nothing that is jumped over is as long.
fn short(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::Dice;
    use super::super::devices::tests::Request;
    use super::super::devices::tests::allowed;
    use super::super::devices::tests::every_request;
    use super::super::devices::{Pattern, rules};
    use super::*;

    /// The opcodes above, and a panic for any other, for a jump out of the program and for a fall off its end.
    fn run(program: &[u64], request: &Request) -> bool {
        let kind = if request.kind == Type::Block { 1 } else { 2 };
        let context = [u32::from(request.access) << 16 | kind, request.major, request.minor];
        let (mut registers, mut at) = ([0u32; 11], 0usize);
        loop {
            let [code, pair, o0, o1, c0, c1, c2, c3] = program[at].to_le_bytes();
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let offset = usize::try_from(i16::from_le_bytes([o0, o1])).unwrap();
            let constant = u32::from_le_bytes([c0, c1, c2, c3]);
            at += 1;
            match code {
                LOAD_WORD => registers[to] = context[offset / 4],
                MOVE => registers[to] = registers[from],
                MOVE_CONSTANT => registers[to] = constant,
                AND => registers[to] &= constant,
                OR => registers[to] |= registers[from],
                SHIFT_LEFT => registers[to] <<= constant,
                SHIFT_RIGHT => registers[to] >>= constant,
                JUMP => at += offset,
                JUMP_UNEQUAL if registers[to] != constant => at += offset,
                JUMP_SOME_BIT if registers[to] & constant != 0 => at += offset,
                JUMP_UNEQUAL | JUMP_SOME_BIT => {}
                EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    /// What the kernel asks of a program before all else (check_cfg): that there is a way to each instruction.
    fn is_reached(program: &[u64]) -> Vec<bool> {
        let mut reached = vec![false; program.len()];
        let mut ways = vec![0];
        while let Some(at) = ways.pop() {
            if std::mem::replace(&mut reached[at], true) {
                continue;
            }
            let [code, _, o0, o1, ..] = program[at].to_le_bytes();
            let jump = at + 1 + usize::try_from(i16::from_le_bytes([o0, o1])).unwrap();
            match code {
                EXIT => {}
                JUMP => ways.push(jump),
                JUMP_UNEQUAL | JUMP_SOME_BIT => ways.extend([at + 1, jump]),
                _ => ways.push(at + 1),
            }
        }
        reached
    }

    #[test]
    fn the_program_answers_as_the_rules_do() {
        let mut dice = Dice(7);
        for _ in 0..2_000 {
            let rules = dice.rules();
            let program = emit(&rules);
            assert!(is_reached(&program).iter().all(|reached| *reached), "{rules:?}");
            for request in every_request() {
                let wanted = allowed(&rules, &request);
                assert_eq!(
                    run(&program, &request),
                    wanted,
                    "{rules:?} {}:{} {:#b}",
                    request.major,
                    request.minor,
                    request.access
                );
            }
        }
    }

    #[test]
    fn a_number_beyond_the_kernels_is_no_other_device() {
        let rules = [(1 << 12, 3), (0, 1 << 20 | 3)].map(|(major, minor)| Rule {
            verdict: Verdict::Allow,
            pattern: Pattern { kind: Some(Type::Char), major: Some(major), minor: Some(minor) },
            access: Access::ALL,
        });
        let program = emit(&rules);
        for (major, minor) in [(0, 3), (1, 3)] {
            assert!(!run(&program, &Request { kind: Type::Char, major, minor, access: 6 }), "{major}:{minor}");
        }
    }

    #[test]
    fn as_many_rules_as_one_likes_are_tried() {
        let rule = |minor| Rule {
            verdict: Verdict::Allow,
            pattern: Pattern { kind: Some(Type::Char), major: Some(9), minor: Some(minor) },
            access: Access::ALL,
        };
        let program = emit(&(0..20_000).map(rule).collect::<Vec<_>>());
        for (kind, minor, wanted) in [(Type::Char, 0, true), (Type::Char, 20_000, false), (Type::Block, 0, false)] {
            assert_eq!(run(&program, &Request { kind, major: 9, minor, access: 6 }), wanted, "{kind:?} {minor}");
        }
    }

    #[test]
    fn the_defaults_are_a_short_program() {
        let program = emit(&rules(&[]).unwrap());
        assert!(program.len() < 50, "{} instructions", program.len());
        for (major, minor, wanted) in [(1, 3, true), (136, 77, true), (5, 2, true), (10, 229, false), (1, 1, false)] {
            assert_eq!(
                run(&program, &Request { kind: Type::Char, major, minor, access: 6 }),
                wanted,
                "{major}:{minor}"
            );
        }
        assert!(run(&program, &Request { kind: Type::Block, major: 8, minor: 0, access: 1 }), "mknod");
    }

    #[test]
    fn an_instruction_lies_in_memory_as_the_kernel_has_it() {
        assert_eq!(instruction(LOAD_WORD, 4, 1, 8, 0).to_le_bytes(), [0x61, 0x14, 8, 0, 0, 0, 0, 0]);
        assert_eq!(instruction(AND, 3, 0, 0, 0xffff_fff8).to_le_bytes(), [0x54, 3, 0, 0, 0xf8, 0xff, 0xff, 0xff]);
    }
}
