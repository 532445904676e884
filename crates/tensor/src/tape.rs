//! The little program that a fused elementwise kernel is.
//!
//! A [`Tape`] is a straight line of instructions over whole tensors of one logical shape:
//! instruction `i` defines register `i`. It says *what* to compute at every linear index; how the
//! index maps to memory (strides, broadcasting) belongs to the engine. On CPU it is interpreted
//! in blocks (`cpu::interp`); another engine may print it as source.
//!
//! **Rounding.** Every instruction rounds its result to its own type, `f16` and `bf16` included
//! (they are computed in `f32`). No engine may contract a multiplication and an addition. So
//! cutting a tape in two changes no bit.

use crate::{DType, Element};
use std::fmt;

/// The index of an instruction, which is also the name of the value it defines.
pub type Reg = u16;

/// Functions of one value. The result has the operand's type.
///
/// Integers and bools take only `Neg`, `Abs`, `Sign`, `Relu`, `Not` and the four roundings (which
/// leave them alone); the others need a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names say it
pub enum Unary {
    Neg,
    Abs,
    /// -1, 0 or 1; 0 for NaN.
    Sign,
    Floor,
    Ceil,
    /// To the nearest integer, halves to even.
    Round,
    Trunc,
    Sqrt,
    Rsqrt,
    Recip,
    Exp,
    Expm1,
    Log,
    Log1p,
    Sin,
    Cos,
    Tanh,
    Erf,
    Sigmoid,
    /// max(x, 0); NaN stays NaN.
    Relu,
    /// Logical on bools, bitwise on integers.
    Not,
}

/// Functions of two values of one type. Comparisons give `Bool`, the others the operands' type.
///
/// Integer arithmetic wraps; integer division truncates; dividing by 0 gives 0. On bools `Add`
/// and `Max` are "or", `Mul` and `Min` are "and".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    /// The remainder with the divisor's sign, as Python and `torch.remainder`.
    Rem,
    /// C's `pow`. Integers: a negative exponent gives 0 unless the base is 1 or -1.
    Pow,
    /// NaN if either is NaN.
    Max,
    /// NaN if either is NaN.
    Min,
    And,
    Or,
    Xor,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Binary {
    /// Whether the result is a `Bool` whatever the operands are.
    pub const fn is_comparison(self) -> bool {
        use Binary::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }

    /// Whether the operands may be swapped without changing a bit.
    pub const fn commutes(self) -> bool {
        use Binary::*;
        matches!(self, Add | Mul | And | Or | Xor | Eq | Ne)
    }
}

/// One step of a [`Tape`]. Operands are registers defined by earlier instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instr {
    /// Input `k` at this index. The register's type is the input's.
    Load(u16),
    /// The run-time scalar in slot `k`, converted to the register's type.
    Const(u16),
    /// A uniform number in [0, 1): a pure function of the run-time [`Key`] in slot `k` and the
    /// linear index (Philox4x32-10; 24 random bits for `f32`, 53 for `f64`, 11 for `f16`, 8 for
    /// `bf16`).
    Uniform(u16),
    /// A function of one register of the same type.
    Unary(Unary, Reg),
    /// A function of two registers of one type.
    Binary(Binary, Reg, Reg),
    /// `(c, a, b)`: `a` where the `Bool` register `c` is true, else `b`.
    Where(Reg, Reg, Reg),
    /// Conversion to the register's type. Floats to integers truncate and saturate (NaN gives 0);
    /// integers to narrower integers wrap; anything to `Bool` is `!= 0`.
    Cast(Reg),
}

impl Instr {
    /// The registers read, in order.
    pub fn operands(&self) -> impl Iterator<Item = Reg> + use<> {
        let (n, r) = match *self {
            Instr::Load(_) | Instr::Const(_) | Instr::Uniform(_) => (0, [0; 3]),
            Instr::Unary(_, a) | Instr::Cast(a) => (1, [a, 0, 0]),
            Instr::Binary(_, a, b) => (2, [a, b, 0]),
            Instr::Where(c, a, b) => (3, [c, a, b]),
        };
        r.into_iter().take(n)
    }
}

/// A straight-line elementwise program with any number of outputs.
///
/// ```
/// use fornax_tensor::{DType::F32, tape::{Binary, Tape, Unary}};
/// // out = exp(x * s), s being run-time scalar 0
/// let mut t = Tape::default();
/// let x = t.input(F32);
/// let s = t.constant(0, F32);
/// let y = t.binary(Binary::Mul, x, s);
/// let y = t.unary(Unary::Exp, y);
/// t.outputs.push(y);
/// assert!(t.check().is_ok());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tape {
    /// The types of the inputs.
    pub inputs: Vec<DType>,
    /// Instruction `i` defines register `i`.
    pub instrs: Vec<Instr>,
    /// The type of each register.
    pub dtypes: Vec<DType>,
    /// The registers that are the results.
    pub outputs: Vec<Reg>,
}

impl Tape {
    /// Appends an instruction and returns its register.
    pub fn push(&mut self, instr: Instr, dtype: DType) -> Reg {
        assert!(
            self.instrs.len() < Reg::MAX as usize,
            "a tape holds at most 65,535 instructions"
        );
        self.instrs.push(instr);
        self.dtypes.push(dtype);
        (self.instrs.len() - 1) as Reg
    }

    /// Declares a new input and loads it.
    pub fn input(&mut self, dtype: DType) -> Reg {
        self.inputs.push(dtype);
        self.push(Instr::Load((self.inputs.len() - 1) as u16), dtype)
    }

    /// The scalar in run-time slot `slot`.
    pub fn constant(&mut self, slot: u16, dtype: DType) -> Reg {
        self.push(Instr::Const(slot), dtype)
    }

    /// `op(a)`.
    pub fn unary(&mut self, op: Unary, a: Reg) -> Reg {
        self.push(Instr::Unary(op, a), self.dtypes[a as usize])
    }

    /// `op(a, b)`.
    pub fn binary(&mut self, op: Binary, a: Reg, b: Reg) -> Reg {
        let dtype = if op.is_comparison() {
            DType::Bool
        } else {
            self.dtypes[a as usize]
        };
        self.push(Instr::Binary(op, a, b), dtype)
    }

    /// `a` where `cond`, else `b`.
    pub fn select(&mut self, cond: Reg, a: Reg, b: Reg) -> Reg {
        self.push(Instr::Where(cond, a, b), self.dtypes[a as usize])
    }

    /// `a` converted to `dtype`.
    pub fn cast(&mut self, a: Reg, dtype: DType) -> Reg {
        self.push(Instr::Cast(a), dtype)
    }

    /// The types of the outputs.
    pub fn output_dtypes(&self) -> impl Iterator<Item = DType> + '_ {
        self.outputs.iter().map(|&r| self.dtypes[r as usize])
    }

    /// Says what is wrong with a malformed tape: a register used before it is defined, operands
    /// of different types, or an operation that a type does not have.
    pub fn check(&self) -> Result<(), String> {
        if self.instrs.len() != self.dtypes.len() {
            return Err(format!(
                "{} instructions but {} types",
                self.instrs.len(),
                self.dtypes.len()
            ));
        }
        for (i, (instr, &dtype)) in self.instrs.iter().zip(&self.dtypes).enumerate() {
            let fail = |why: String| Err(format!("instruction {i} ({instr:?} -> {dtype}): {why}"));
            if let Some(r) = instr.operands().find(|&r| r as usize >= i) {
                return fail(format!("register {r} is not defined yet"));
            }
            let of = |r: Reg| self.dtypes[r as usize];
            match *instr {
                Instr::Load(k) => match self.inputs.get(k as usize) {
                    None => return fail(format!("there are {} inputs", self.inputs.len())),
                    Some(&d) if d != dtype => return fail(format!("the input is {d}")),
                    Some(_) => {}
                },
                Instr::Const(_) | Instr::Cast(_) => {}
                Instr::Uniform(_) if !dtype.is_float() => return fail("needs a float".into()),
                Instr::Uniform(_) => {}
                Instr::Unary(op, a) => {
                    if of(a) != dtype {
                        return fail(format!("the operand is {}", of(a)));
                    }
                    if !unary_exists(op, dtype) {
                        return fail("not defined for this type".into());
                    }
                }
                Instr::Binary(op, a, b) => {
                    let result = if op.is_comparison() {
                        DType::Bool
                    } else {
                        of(a)
                    };
                    if of(a) != of(b) || dtype != result {
                        return fail(format!("the operands are {} and {}", of(a), of(b)));
                    }
                    if !binary_exists(op, of(a)) {
                        return fail(format!("not defined for {}", of(a)));
                    }
                }
                Instr::Where(c, a, b) => {
                    if of(c) != DType::Bool || of(a) != dtype || of(b) != dtype {
                        return fail(format!("the operands are {}, {}, {}", of(c), of(a), of(b)));
                    }
                }
            }
        }
        match self
            .outputs
            .iter()
            .find(|&&r| r as usize >= self.instrs.len())
        {
            Some(r) => Err(format!("output register {r} does not exist")),
            None => Ok(()),
        }
    }
}

/// Whether a type has the function.
pub(crate) fn unary_exists(op: Unary, dtype: DType) -> bool {
    use Unary::*;
    match op {
        Not => !dtype.is_float(),
        Neg | Abs | Sign | Floor | Ceil | Round | Trunc | Relu => dtype != DType::Bool,
        _ => dtype.is_float(),
    }
}

/// Whether two values of a type have the function.
pub(crate) fn binary_exists(op: Binary, dtype: DType) -> bool {
    use Binary::*;
    match op {
        And | Or | Xor => !dtype.is_float(),
        Sub | Div | Rem | Pow => dtype != DType::Bool,
        _ => true,
    }
}

/// One instruction a line, for debugging.
impl fmt::Display for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (instr, dtype)) in self.instrs.iter().zip(&self.dtypes).enumerate() {
            write!(f, "%{i}: {dtype} = ")?;
            match instr {
                Instr::Load(k) => writeln!(f, "load {k}")?,
                Instr::Const(k) => writeln!(f, "const {k}")?,
                Instr::Uniform(k) => writeln!(f, "uniform {k}")?,
                Instr::Unary(op, a) => writeln!(f, "{op:?} %{a}")?,
                Instr::Binary(op, a, b) => writeln!(f, "{op:?} %{a} %{b}")?,
                Instr::Where(c, a, b) => writeln!(f, "where %{c} %{a} %{b}")?,
                Instr::Cast(a) => writeln!(f, "cast %{a}")?,
            }
        }
        write!(f, "->")?;
        self.outputs.iter().try_for_each(|r| write!(f, " %{r}"))
    }
}

/// A run-time scalar, given in the widest type of its category.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// For float registers (and any other, by conversion).
    F64(f64),
    /// For integer registers: exact over the whole range.
    I64(i64),
    /// For bools.
    Bool(bool),
}

impl Scalar {
    /// The value as an element of a tensor, by the rules of [`Instr::Cast`]: floats saturate in
    /// integers, integers wrap in narrower ones.
    pub fn to<T: Element>(self) -> T {
        match self {
            Scalar::F64(v) => T::from_f64(v),
            Scalar::I64(v) => T::from_i64(v),
            Scalar::Bool(v) => T::from_i64(v as i64),
        }
    }

    /// The value as `f64`.
    pub fn to_f64(self) -> f64 {
        match self {
            Scalar::F64(v) => v,
            Scalar::I64(v) => v as f64,
            Scalar::Bool(v) => v as u8 as f64,
        }
    }
}

/// What a random number is a function of, besides its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The user's seed.
    pub seed: u64,
    /// Distinguishes the random tensors made under one seed.
    pub stream: u64,
}

/// The values that change from run to run of one tape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots<'a> {
    /// For [`Instr::Const`].
    pub scalars: &'a [Scalar],
    /// For [`Instr::Uniform`].
    pub keys: &'a [Key],
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::*;

    #[test]
    fn check_names_the_faulty_instruction() {
        let mut t = Tape::default();
        let x = t.input(F32);
        t.push(Instr::Binary(Binary::Add, x, 7), F32);
        assert!(
            t.check()
                .unwrap_err()
                .contains("register 7 is not defined yet")
        );

        let mut t = Tape::default();
        let (x, y) = (t.input(F32), t.input(I32));
        t.binary(Binary::Add, x, y);
        assert!(t.check().unwrap_err().contains("float32 and int32"));

        let mut t = Tape::default();
        let x = t.input(I64);
        t.unary(Unary::Exp, x);
        assert!(t.check().unwrap_err().contains("not defined"));
    }
}
