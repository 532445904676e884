//! Random programs, run twice: op by op with everything held and nothing fused, and lazily with
//! values dropped and evaluated at random moments. Values are small whole numbers, so that every
//! order of additions gives the same bits.

use fornax_tensor::DType::*;
use fornax_tensor::*;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

const TYPES: [DType; 8] = [F32, F64, BF16, U8, I64, I32, F32, F32];

fn leaf(dice: &mut Dice, dtype: DType) -> Tensor {
    let shapes: &[&[usize]] = &[
        &[2, 3],
        &[3],
        &[6],
        &[2, 3, 4],
        &[4],
        &[1, 3],
        &[12, 700],
        &[700],
        &[2, 1400],
        &[5, 3, 700],
        &[1],
        &[2, 1, 3],
        &[0, 3],
        &[4096],
        &[8192],
    ];
    let shape = dice.of(shapes);
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n)
        .map(|i| ((i * 7 + dice.below(13)) % 7) as f64)
        .collect();
    Tensor::from_vec(values, shape)
        .to_dtype(dtype)
        .eval()
        .clone()
}

/// Whole numbers below 7.
fn small(x: Tensor) -> Tensor {
    match x.dtype() {
        Bool => x.to_dtype(F32),
        _ => x % 7,
    }
}

/// A random op on `x` and `y`, if the one drawn suits them.
fn op(dice: &mut Dice, x: &Tensor, y: &Tensor) -> Option<Tensor> {
    let kind = dice.below(34);
    let (a, b, c) = (dice.below(1000), dice.below(1000), dice.below(1000));
    let (rank, number) = (x.rank(), x.dtype() != Bool && y.dtype() != Bool);
    let broadcasts = Shape::broadcast(x.shape(), y.shape()).is_some();
    let along = (rank > 0).then(|| (a % rank.max(1)) as isize);
    let filled = along.filter(|&axis| x.dim(axis) > 0);
    let few = x.numel() < 30_000;
    Some(match kind {
        0 | 1 if broadcasts => small(x + y),
        2 if broadcasts => small(x * y),
        3 if broadcasts => x.maximum(y),
        4 if broadcasts && number => small(x - y),
        5 if broadcasts => x.gt(y),
        6 if broadcasts => x.gt_scalar(2).where_(x, y),
        7 if number => x.relu(),
        8 if number => small(x * 3 + 1),
        9 if number => small(x.square() + x),
        10 | 11 => x.to_dtype(dice.of(&[F32, F64, I64, U8, BF16, I32])),
        12 | 13 => {
            let axis = along?;
            let size = x.dim(axis);
            let start = b % (size + 1);
            x.narrow(axis, start, c % (size - start + 1))
        }
        14 => x.narrow(along?, 0, x.dim(along?) / 2),
        15 => x.flip(along?),
        16 => x.slice(along?, (b % 5) as isize, isize::MAX, 1 + (c % 3) as isize),
        17 if rank >= 2 => x.permute((0..rank as isize).rev().collect::<Vec<_>>()),
        18 => x.reshape([x.numel()]),
        19 => {
            let rows = [2, 3, 4, 6]
                .into_iter()
                .find(|&f| x.numel().is_multiple_of(f))?;
            x.reshape([rows, x.numel() / rows])
        }
        20 if few => x.unsqueeze(0).broadcast_to([&[2], x.shape()].concat()),
        21 => small(x.sum(along?)),
        22 => x.max(filled?),
        23 => small(x.cumsum(along?)),
        24 => {
            let size = x.dim(filled?);
            let picks: Vec<i64> = (0..3).map(|i| ((b + i * c) % size) as i64).collect();
            x.index_select(filled?, &Tensor::from_vec(picks, [3]))
        }
        25 if few && rank == y.rank() => {
            let axis = along?;
            let mut shape = x.shape().to_vec();
            shape[axis as usize] = y.dim(axis);
            if shape == y.shape() {
                Tensor::cat(&[x.clone(), y.clone(), x.clone()], axis)
            } else {
                // All pieces, or the first and the last.
                let pieces = x.split(1 + b % 4, filled?);
                let ends = [&pieces[..1], &pieces[pieces.len() - 1..]].concat();
                Tensor::cat(if c % 2 == 0 { &pieces } else { &ends }, filled?)
            }
        }
        26 if x.dtype() == y.dtype() && rank == y.rank() => {
            let room: Vec<_> = (0..rank)
                .map(|d| x.shape()[d].checked_sub(y.shape()[d]))
                .collect();
            let room: Vec<usize> = room.into_iter().collect::<Option<_>>()?;
            x.slice_update(&room.iter().map(|r| b % (r + 1)).collect::<Vec<_>>(), y)
        }
        27 if few => x.pad(&vec![(1, 2); rank], 3.0),
        28 if rank == 2 && y.rank() == 2 && x.dim(1) == y.dim(0) && number => small(x.matmul(y)),
        29 if rank == 2 && number && x.dim(0) <= 20 => small(x.matmul(&x.t())),
        30 => x.detach(),
        31 if few => x.argsort(along?, b % 2 == 0) % 7,
        32 if number => small((x * 2).sum_keepdim(along?) + x),
        33 => small(x.to_dtype(F32).sum(..)).broadcast_to(x.shape()) + x,
        _ => return None,
    })
}

/// The bits of everything that the program of a seed leaves.
fn run(seed: u64, lazy: bool, recorded: bool) -> Vec<Vec<u64>> {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    // Decides what only the lazy run does.
    let mut whim = Dice(seed ^ 0xabcdef);
    let mut held: Vec<Tensor> = Vec::new();
    let mut program = || {
        let mut pool: Vec<Tensor> = (0..5)
            .map(|_| {
                let dtype = dice.of(&TYPES);
                leaf(&mut dice, dtype)
            })
            .collect();
        let floats = pool.iter().filter(|t| t.dtype().is_float() && recorded);
        let params: Vec<Tensor> = floats.cloned().collect();
        for _ in 0..8 + dice.below(25) {
            let (i, j) = (dice.below(pool.len()), dice.below(pool.len()));
            let at = dice.below(pool.len() + 2);
            let made = match dice.below(12) {
                0 => {
                    let dtype = dice.of(&TYPES);
                    Some(leaf(&mut dice, dtype))
                }
                _ => op(&mut dice, &pool[i], &pool[j]),
            };
            let Some(made) = made.filter(|t| t.numel() <= 60_000) else {
                continue;
            };
            if !lazy {
                made.eval();
                held.push(made.clone());
            }
            match pool.get_mut(at) {
                Some(place) => *place = made,
                None => pool.push(made),
            }
            if lazy && whim.below(6) == 0 {
                let (i, j) = (whim.below(pool.len()), whim.below(pool.len()));
                eval_all(&[&pool[i], &pool[j]]).unwrap();
            }
        }
        if !params.is_empty() {
            let weighted = |t: &Tensor| {
                let weights = (Tensor::arange(t.numel(), I64) % 5).to_dtype(F64);
                (t.to_dtype(F64) * weights.reshape(t.shape())).sum(..)
            };
            let floats = pool.iter().chain(&params).filter(|t| t.dtype().is_float());
            let loss = floats
                .map(weighted)
                .reduce(|a, b| a + b)
                .expect("there are parameters");
            let grads = grad_of(&loss, &params.iter().collect::<Vec<_>>());
            if !lazy {
                held.extend(grads.iter().cloned());
            }
            pool.extend(grads);
        }
        let mut order: Vec<usize> = (0..pool.len()).collect();
        if lazy {
            (1..order.len())
                .rev()
                .for_each(|i| order.swap(i, whim.below(i + 1)));
        }
        let mut bits = vec![Vec::new(); pool.len()];
        for i in order {
            // One zero: its sign depends on what was added to it.
            let read = pool[i].to_f64_vec();
            bits[i] = read.iter().map(|v| (v + 0.0).to_bits()).collect();
        }
        bits
    };
    let options = Options {
        fusion: lazy,
        ..options()
    };
    with_options(options, || match recorded {
        true => record(&mut program),
        false => program(),
    })
}

#[test]
fn lazy_programs_give_what_eager_ones_give() {
    for seed in 0..600 {
        for recorded in [false, true] {
            let (eager, lazy) = (run(seed, false, recorded), run(seed, true, recorded));
            assert_eq!(eager, lazy, "seed {seed}, recorded: {recorded}");
        }
    }
}
