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
    if kind().is_none() {
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
        (32, 64),
        (27, 40),
        (17, 65),
    ] {
        let x = numbers(3 * lines * len, 7);
        let (l, k) = (lines as isize, len as isize);
        for (line, step) in [(k, 1), (1, l), (2 * k + 1, 2), (3, 3 * l)] {
            for format in [Format::Rows, Format::Pairs] {
                for parts in 1..=3 {
                    let steps = len.div_ceil(STEP);
                    let block = steps * parts * TILE / 2;
                    let mut packed = vec![0xFFFFu16; lines.div_ceil(LINES) * block];
                    let all = Lines {
                        ptr: x.as_ptr(),
                        line,
                        step,
                        lines,
                        len,
                    };
                    // SAFETY: as many numbers as the strides reach; room for all tiles.
                    let extent = unsafe { pack(format, parts, all, packed.as_mut_ptr().cast()) };
                    let unpack = |packed: &[u16]| unpack(format, parts, steps, packed);
                    let got: Vec<_> = packed.chunks(block).map(unpack).collect();
                    let (mut least, mut most) = (f32::INFINITY, 0f32);
                    for i in 0..got.len() * LINES {
                        let mut largest = 0f32;
                        for (l, got) in got[i / LINES].iter().enumerate() {
                            let exists = i < lines && l < len;
                            let want = match exists {
                                true => x[i * line as usize + l * step as usize],
                                false => 0.0,
                            };
                            largest = largest.max(want.abs());
                            let bound = want.abs() as f64 * [0.0, 4e-3, 1.6e-5, 0.0][parts];
                            let got = got[i % LINES];
                            let error = (got - want as f64).abs();
                            assert!(error <= bound, "{want}: {got} of {parts}");
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

/// Each number's parts multiplied with those of another that count, and with no others.
#[test]
fn inner_loops_multiply_all_parts_that_count() {
    if kind() != Some(Kind::Amx) {
        return;
    }
    let (steps, row) = (3, 70);
    let k = steps * STEP;
    for (parts, tolerance) in [(2, 3e-5), (3, 4e-7)] {
        let blocks = |count: usize, seed: u64, format: Format| {
            let x = numbers(count * LINES * k, seed);
            let mut packed = vec![0u8; count * steps * parts * TILE];
            let each = x
                .chunks(LINES * k)
                .zip(packed.chunks_mut(steps * parts * TILE));
            for (x, to) in each {
                let lines = Lines {
                    ptr: x.as_ptr(),
                    line: k as isize,
                    step: 1,
                    lines: LINES,
                    len: k,
                };
                // SAFETY: the numbers of the block, and room for its tiles.
                unsafe { pack(format, parts, lines, to.as_mut_ptr()) };
            }
            (x, packed)
        };
        let (a, rows) = blocks(2, 1, Format::Rows);
        let (b, columns) = blocks(4, 2, Format::Pairs);
        let at = |tiles: &[u8], block: usize| tiles[block * steps * parts * TILE..].as_ptr();
        let check = |c: &[f32], m: usize, n: usize, before: f64| {
            for (i, c) in c.chunks(row).enumerate() {
                for (j, &got) in c.iter().enumerate() {
                    if i >= m * LINES || j >= n * LINES {
                        assert_eq!(got, 2.0);
                        continue;
                    }
                    let terms = a[i * k..][..k].iter().zip(&b[j * k..][..k]);
                    let terms = terms.map(|(&x, &y)| x as f64 * y as f64);
                    let size: f64 = terms.clone().map(f64::abs).sum();
                    let error = (got as f64 - terms.sum::<f64>() - before).abs();
                    assert!(error < tolerance * size, "{parts} parts, {i}, {j}: {error}");
                }
            }
        };
        for accumulate in [false, true] {
            let before = if accumulate { 2.0 } else { 0.0 };
            for (m, n) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
                let mut c = vec![2f32; 2 * LINES * row];
                let product = Product {
                    a: [at(&rows, 0), at(&rows, 1)],
                    b: [at(&columns, 0), at(&columns, 1)],
                    steps,
                    c: c.as_mut_ptr(),
                    c_row: row,
                    accumulate,
                    ahead: rows.as_ptr(),
                };
                // SAFETY: there is a unit; the tiles and the output are there.
                unsafe { multiply(&Tiles::new(), parts, m, n, &product) };
                check(&c, m, n, before);
            }
            let mut c = vec![2f32; LINES * row];
            let wide = Wide {
                a: at(&rows, 0),
                b: [0, 1, 2, 3].map(|i| at(&columns, i)),
                steps,
                c: c.as_mut_ptr(),
                c_row: row,
                accumulate,
            };
            // SAFETY: as above.
            unsafe { multiply_wide(&Tiles::new(), parts, &wide) };
            check(&c, 1, 4, before);
        }
    }
}

/// The inner loops on whatever unit there is, one part, against sums in `f64`.
#[test]
fn inner_loops_add_up_the_products_of_their_tiles() {
    if kind().is_none() {
        return;
    }
    let steps = 3;
    // Blocks of lines as `bf16` numbers, and packed for one side.
    let blocks = |count: usize, seed: u64, format: Format| {
        let x: Vec<f32> = numbers(count * LINES * steps * STEP, seed)
            .into_iter()
            .map(|x| half::bf16::from_f32(x).to_f32())
            .collect();
        let mut packed = vec![0u8; count * steps * TILE];
        for block in 0..count {
            let lines = Lines {
                ptr: x[block * LINES * steps * STEP..].as_ptr(),
                line: (steps * STEP) as isize,
                step: 1,
                lines: LINES,
                len: steps * STEP,
            };
            let to = packed[block * steps * TILE..].as_mut_ptr();
            // SAFETY: the numbers of the block, and room for its tiles.
            unsafe { pack(format, 1, lines, to) };
        }
        (x, packed)
    };
    let (a, rows) = blocks(2, 1, Format::Rows);
    let (b, columns) = blocks(4, 2, Format::Pairs);
    let sum = |i: usize, j: usize| -> f64 {
        let line = |x: &[f32], i: usize| x[i * steps * STEP..][..steps * STEP].to_vec();
        let terms = line(&a, i).into_iter().zip(line(&b, j));
        terms.map(|(x, y)| x as f64 * y as f64).sum()
    };
    let at = |tiles: &[u8], block: usize| tiles[block * steps * TILE..].as_ptr();
    let close = |got: f32, i: usize, j: usize, before: f64| {
        let want = sum(i, j) + before;
        assert!(
            (got as f64 - want).abs() < 1e-4,
            "{i}, {j}: {got} not {want}"
        );
    };
    for accumulate in [false, true] {
        let before = if accumulate { 2.0 } else { 0.0 };
        for (m, n) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            let mut c = vec![2f32; 2 * LINES * 40];
            let product = Product {
                a: [at(&rows, 0), at(&rows, 1)],
                b: [at(&columns, 0), at(&columns, 1)],
                steps,
                c: c.as_mut_ptr(),
                c_row: 40,
                accumulate,
                ahead: rows.as_ptr(),
            };
            // SAFETY: there is a unit; the tiles and the output are there.
            unsafe { multiply(&Tiles::new(), 1, m, n, &product) };
            for (i, row) in c.chunks(40).enumerate() {
                for (j, &got) in row.iter().enumerate() {
                    match i < m * LINES && j < n * LINES {
                        true => close(got, i, j, before),
                        false => assert_eq!(got, 2.0),
                    }
                }
            }
        }
        let mut c = vec![2f32; LINES * 70];
        let wide = Wide {
            a: at(&rows, 0),
            b: [0, 1, 2, 3].map(|i| at(&columns, i)),
            steps,
            c: c.as_mut_ptr(),
            c_row: 70,
            accumulate,
        };
        // SAFETY: as above.
        unsafe { multiply_wide(&Tiles::new(), 1, &wide) };
        for (i, row) in c.chunks(70).enumerate() {
            for (j, &got) in row.iter().enumerate() {
                match j < 4 * LINES {
                    true => close(got, i, j, before),
                    false => assert_eq!(got, 2.0),
                }
            }
        }
        // Steps of the sliding operand out of order, by rows that are farther apart than packed ones.
        let order = [2, 0, 1];
        for side in [Side::First, Side::Second] {
            let (packed, sliding) = match side {
                Side::First => (&columns, &rows),
                Side::Second => (&rows, &columns),
            };
            let mut apart = vec![0u8; 2 * steps * TILE * 2];
            for (i, row) in sliding[..2 * steps * TILE].chunks(64).enumerate() {
                apart[i * 128..][..64].copy_from_slice(row);
            }
            let mut moved = vec![0u8; 2 * steps * TILE];
            for block in 0..2 {
                for (to, &from) in order.iter().enumerate() {
                    moved[(block * steps + to) * TILE..][..TILE]
                        .copy_from_slice(&packed[(block * steps + from) * TILE..][..TILE]);
                }
            }
            let offsets = order.map(|step| step * 2 * TILE);
            for (p, s) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
                let mut c = vec![2f32; 4 * LINES * LINES];
                let x = Sliding {
                    packed: [at(&moved, 0), at(&moved, 1)],
                    sliding: apart.as_ptr(),
                    offsets: offsets.as_ptr(),
                    part: 0,
                    block: steps * 2 * TILE,
                    row: 128,
                    steps,
                    sums: c.as_mut_ptr(),
                    accumulate,
                };
                // SAFETY: as above.
                unsafe { slide(&Tiles::new(), 1, side, p, s, &x) };
                for (tile, c) in c.chunks(LINES * LINES).enumerate() {
                    let (of_packed, of_sliding) = (tile / 2, tile % 2);
                    for (at, &got) in c.iter().enumerate() {
                        let (i, j) = (at / LINES, at % LINES);
                        match of_packed < p && of_sliding < s {
                            false => assert_eq!(got, 2.0),
                            true => match side {
                                Side::First => close(
                                    got,
                                    of_sliding * LINES + i,
                                    of_packed * LINES + j,
                                    before,
                                ),
                                Side::Second => close(
                                    got,
                                    of_packed * LINES + i,
                                    of_sliding * LINES + j,
                                    before,
                                ),
                            },
                        }
                    }
                }
            }
        }
    }
}
