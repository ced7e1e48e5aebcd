//! The v2 dialect of device rules: a program that the kernel runs at each open and mknod of a device
//! (`BPF_PROG_TYPE_CGROUP_DEVICE`, linux/bpf.h). It answers 1 for allowed and 0 for EPERM.
//!
//! Rules are tried from the last to the first. r3 holds the access bits that no rule has decided yet: an allowing rule
//! takes its bits off, a denying rule that meets one of them ends the matter, and what is left at the end is denied.

#![forbid(unsafe_code)]

use super::devices::Rule;
use super::devices::Type;
use super::devices::Verdict;

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

// The nine opcodes in use (instruction-set.rst); 32-bit jumps need Linux 5.1.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbc;
const MOVE_CONSTANT: u8 = 0xb7;
const AND: u8 = 0x54;
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
    ];
    let first = rules.iter().rposition(Rule::is_total).unwrap_or(0);
    for rule in rules[first..].iter().rev() {
        program.extend(one_rule(rule));
    }
    program.extend(answer(0));
    program
}

/// Conditions, each of which leaves for the next rule when it does not hold, then the verdict.
fn one_rule(rule: &Rule) -> Vec<u64> {
    let kind = rule.pattern.kind.map(|kind| match kind {
        Type::Block => 1, // BPF_DEVCG_DEV_BLOCK
        Type::Char => 2,  // BPF_DEVCG_DEV_CHAR
    });
    let conditions: Vec<(u8, u32)> = [(TYPE, kind), (MAJOR, rule.pattern.major), (MINOR, rule.pattern.minor)]
        .into_iter()
        .filter_map(|(register, wanted)| wanted.map(|wanted| (register, wanted)))
        .collect();
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

/// No rule is longer than seven instructions.
fn short(count: usize) -> i16 {
    i16::try_from(count).unwrap_or(i16::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::devices::rules;
    use super::super::devices::tests::Dice;
    use super::super::devices::tests::Request;
    use super::super::devices::tests::allowed;
    use super::super::devices::tests::every_request;
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

    #[test]
    fn the_program_answers_as_the_rules_do() {
        let mut dice = Dice(7);
        for _ in 0..2_000 {
            let rules = dice.rules();
            let program = emit(&rules);
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
    fn the_defaults_are_a_short_program() {
        let program = emit(&rules(&[]).unwrap());
        assert!(program.len() < 96, "{} instructions", program.len());
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
