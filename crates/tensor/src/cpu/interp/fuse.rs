//! Which instructions go together into chains.

use super::chain::{self, Do, Link};
use super::compile::{Compiler, cost};
use super::*;

/// A chain that has not become a step yet.
#[derive(Clone)]
pub(super) struct Pending {
    head: u16,
    links: Vec<Link>,
    /// Registers kept on the way, and the values that will hold them.
    kept: Vec<(Reg, u16)>,
    /// The instruction, while it is the only one.
    single: Option<Reg>,
    /// If it is one product: the operands (the second may be a cell) that a link can take over.
    product: Option<(u16, u16, bool)>,
    cost: usize,
}

fn link(does: Do, x: u16, y: u16) -> Link {
    Link {
        does,
        x,
        y,
        map: None,
    }
}

impl Compiler<'_> {
    /// Compiles a varying instruction with operands, or makes it a link of a chain.
    pub(super) fn instruction(&mut self, r: Reg) {
        let Some(chain) = self.chain_of(r) else {
            return self.plain(r);
        };
        for &(kept, _) in &chain.kept {
            self.kept_by[kept as usize] = Some(r);
        }
        self.pending[r as usize] = Some(chain);
    }

    /// The chain that ends in instruction `r`, if it is of the kind that chains are made of.
    fn chain_of(&mut self, r: Reg) -> Option<Pending> {
        use Binary::*;
        if !self.dtype(r).is_float() {
            return None;
        }
        let cost = cost(self.tape.instrs[r as usize]);
        let (op, a, b) = match self.tape.instrs[r as usize] {
            Instr::Unary(op, a) => {
                let mut l = link(unary(op), 0, 0);
                if l.does == Do::Map {
                    l.map = self.kernel(r, [false; 3]);
                }
                let a = self.same_as[a as usize];
                return Some(self.extended(r, a, 1).then(l, cost));
            }
            Instr::Binary(op @ (Add | Sub | Mul | Div | Max | Min), a, b) => {
                (op, self.same_as[a as usize], self.same_as[b as usize])
            }
            _ => return None,
        };
        if a == b {
            if op != Mul {
                return None;
            }
            let mut chain = self.extended(r, a, 2);
            if chain.links.is_empty() {
                chain.product = Some((chain.head, chain.head, false));
            }
            return Some(chain.then(link(Do::Square, 0, 0), cost));
        }
        // The accumulator is the side with the longer chain, but never a scalar. Which zero or NaN
        // a maximum gives depends on the order of its operands, so that they stay.
        let longer = !self.uniform[b as usize] && self.length(b) > self.length(a);
        let swap = self.uniform[a as usize] || longer;
        if swap && matches!(op, Max | Min) {
            return None;
        }
        let (acc, other) = if swap { (b, a) } else { (a, b) };
        if let Some((x, y, scalar)) = self.product(r, other)
            && (self.length(acc) > 0 || op != Mul)
            && let Some(does) = with_product(op, swap, scalar)
        {
            let absorbed = self.pending[other as usize]
                .take()
                .expect("it has a product");
            let chain = self
                .extended(r, acc, 1)
                .then(link(does, x, y), cost + absorbed.cost);
            return Some(Pending {
                product: None,
                single: None,
                ..chain
            });
        }
        let scalar = self.uniform[other as usize];
        let x = if scalar {
            self.cell(other)
        } else {
            self.block(other)
        };
        let mut chain = self.extended(r, acc, 1);
        if chain.links.is_empty() && op == Mul {
            chain.product = Some((chain.head, x, scalar));
        }
        Some(chain.then(link(with_operand(op, swap, scalar), x, 0), cost))
    }

    fn length(&self, r: Reg) -> usize {
        self.pending[r as usize]
            .as_ref()
            .map_or(0, |c| c.links.len())
    }

    /// The operands of register `other`, if it is a pending product of `r`'s type that only `r`
    /// reads.
    fn product(&self, r: Reg, other: Reg) -> Option<(u16, u16, bool)> {
        // A half type that is read as `f32` is rounded between the two.
        if self.dtype(other) != self.dtype(r) || self.uses[other as usize] > 1 {
            return None;
        }
        self.pending[other as usize].as_ref()?.product
    }

    /// The chain that ends in `acc`, for instruction `r` to go on from. `r` accounts for `uses` of
    /// the uses of `acc`; if there are more, the chain keeps it.
    fn extended(&mut self, r: Reg, acc: Reg, uses: u32) -> Pending {
        if self.dtype(acc) == self.dtype(r)
            && let Some(mut chain) = self.pending[acc as usize].take()
        {
            if self.uses[acc as usize] > uses {
                let v = self.new_block(acc);
                chain.kept.push((acc, v));
                chain = chain.then(link(Do::Keep, v, 0), 0);
            }
            return chain;
        }
        let head = self.block(acc);
        Pending {
            head,
            links: Vec::new(),
            kept: Vec::new(),
            single: Some(r),
            product: None,
            cost: 0,
        }
    }

    /// Makes a chain a step that computes register `r`.
    pub(super) fn finish(&mut self, r: Reg, chain: Pending) -> u16 {
        if chain.single.is_some() {
            self.plain(r);
            return self.block_of[r as usize].expect("just compiled");
        }
        let d = self.new_block(r);
        let from = self.program.links.len() as u32;
        self.program.links.extend(chain.links.iter().map(|l| Link {
            // Operands that a link does not have name something that exists.
            x: if l.does.has_x() { l.x } else { d },
            y: if l.does.has_y() { l.y } else { d },
            ..*l
        }));
        for &(kept, v) in &chain.kept {
            self.block_of[kept as usize] = Some(v);
            self.kept_by[kept as usize] = None;
        }
        let kernel = chain::kernel(self.level, self.dtype(r));
        let links = from..self.program.links.len() as u32;
        self.step(
            Kind::Chain(kernel, links),
            d,
            [chain.head, d, d],
            chain.cost,
        );
        self.block_of[r as usize] = Some(d);
        d
    }
}

impl Pending {
    fn then(mut self, link: Link, cost: usize) -> Pending {
        if !self.links.is_empty() {
            (self.single, self.product) = (None, None);
        }
        self.links.push(link);
        self.cost += cost;
        self
    }
}

fn unary(op: Unary) -> Do {
    match op {
        Unary::Neg => Do::Neg,
        Unary::Abs => Do::Abs,
        Unary::Sqrt => Do::Sqrt,
        Unary::Recip => Do::Recip,
        Unary::Relu => Do::Relu,
        _ => Do::Map,
    }
}

/// The link for `acc op x`, or `x op acc` if `swap`.
fn with_operand(op: Binary, swap: bool, scalar: bool) -> Do {
    use Binary::*;
    let (vector, splat) = match (op, swap) {
        (Add, _) => (Do::AddV, Do::AddS),
        (Mul, _) => (Do::MulV, Do::MulS),
        (Sub, false) => (Do::SubV, Do::SubS),
        (Sub, true) => (Do::FromV, Do::FromS),
        (Div, false) => (Do::DivV, Do::DivS),
        (Div, true) => (Do::IntoV, Do::IntoS),
        (Max, false) => (Do::MaxV, Do::MaxS),
        (Min, false) => (Do::MinV, Do::MinS),
        _ => unreachable!("no link for {op:?}"),
    };
    if scalar { splat } else { vector }
}

/// The link for `acc op (x * y)`, or `(x * y) op acc` if `swap`.
fn with_product(op: Binary, swap: bool, scalar: bool) -> Option<Do> {
    use Binary::*;
    let (vector, splat) = match (op, swap) {
        (Add, _) => (Do::AddVV, Do::AddVS),
        (Mul, _) => (Do::MulVV, Do::MulVS),
        (Sub, false) => (Do::SubVV, Do::SubVS),
        (Sub, true) => (Do::FromVV, Do::FromVS),
        _ => return None,
    };
    Some(if scalar { splat } else { vector })
}
