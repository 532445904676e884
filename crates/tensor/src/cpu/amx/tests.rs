use super::*;

/// Numbers of many sizes with all 24 bits in use, from a fixed sequence.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len)
        .map(|_| next() * 2f32.powi((next() * 3.0) as i32))
        .collect()
}

/// Each step's parts added up again, as `[line][element]`.
fn unpack(format: Format, parts: usize, steps: usize, packed: &[u16]) -> Vec<[f64; LINES]> {
    let mut out = vec![[0.0; LINES]; steps * STEP];
    for (l, element) in out.iter_mut().enumerate() {
        for (i, value) in element.iter_mut().enumerate() {
            for p in 0..parts {
                let tile = (l / STEP * parts + p) * TILE / 2;
                let l = l % STEP;
                let at = match format {
                    Format::Rows => i * STEP + l,
                    Format::Pairs => l / 2 * STEP + 2 * i + l % 2,
                };
                *value += half::bf16::from_bits(packed[tile + at]).to_f64();
            }
        }
    }
    out
}

#[test]
fn packed_parts_add_up_to_the_numbers() {
    if !detect() {
        return;
    }
    for (lines, len) in [
        (16, 64),
        (16, 32),
        (5, 33),
        (1, 1),
        (16, 47),
        (9, 16),
        (15, 17),
    ] {
        let x = numbers(3 * lines * len, 7);
        let (l, k) = (lines as isize, len as isize);
        for (line, step) in [(k, 1), (1, l), (2 * k + 1, 2), (3, 3 * l)] {
            for format in [Format::Rows, Format::Pairs] {
                for parts in 1..=3 {
                    let steps = len.div_ceil(STEP);
                    let mut packed = vec![0xFFFFu16; steps * parts * TILE / 2];
                    let block = Lines {
                        ptr: x.as_ptr(),
                        line,
                        step,
                        lines,
                        len,
                    };
                    // SAFETY: as many numbers as the strides reach; room for all tiles.
                    let extent = unsafe { pack(format, parts, block, packed.as_mut_ptr().cast()) };
                    let got = unpack(format, parts, steps, &packed);
                    let (mut least, mut most) = (f32::INFINITY, 0f32);
                    for i in 0..LINES {
                        let mut largest = 0f32;
                        for (l, got) in got.iter().enumerate() {
                            let exists = i < lines && l < len;
                            let want = match exists {
                                true => x[i * line as usize + l * step as usize],
                                false => 0.0,
                            };
                            largest = largest.max(want.abs());
                            let bound = want.abs() as f64 * [0.0, 4e-3, 1.6e-5, 0.0][parts];
                            let error = (got[i] - want as f64).abs();
                            assert!(error <= bound, "{want}: {} of {parts}", got[i]);
                        }
                        if i < lines {
                            (least, most) = (least.min(largest), most.max(largest));
                        }
                    }
                    if parts > 1 {
                        let want = (least.to_bits(), most.to_bits());
                        assert_eq!((extent.least, extent.most), want);
                    }
                }
            }
        }
    }
}

#[test]
fn extents_tell_what_parts_cannot_hold() {
    let of = |least: f32, most: f32| Extent {
        least: least.to_bits(),
        most: most.to_bits(),
    };
    let plain = of(1e-3, 10.0);
    assert!(plain.suits(plain, 1000));
    assert!(of(1e-20, 1.0).suits(plain, 64));
    for bad in [
        of(1.0, f32::INFINITY),
        of(1.0, f32::NAN),
        of(1.0, 3e38),
        of(1e-37, 1.0),
        of(0.0, 1e-40),
    ] {
        assert!(!bad.suits(plain, 64) && !plain.suits(bad, 64));
    }
    assert!(!of(1e-20, 1.0).suits(of(1e-20, 1.0), 64));
    assert!(!of(1.0, 1e20).suits(of(1.0, 1e20), 64));
    let zero = Extent::default();
    assert!(zero.suits(plain, 64) && plain.suits(zero, 64) && zero.suits(zero, 64));
    assert!(!zero.suits(of(1.0, f32::NAN), 64));
}
