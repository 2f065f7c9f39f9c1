"""parity: this package's VGGT against reference outputs of the published implementation."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path


def main(arguments: list[str] | None = None, prog: str = "parity") -> int:
    """Print the relative error of every array in a reference file; return 1 if one exceeds the tolerance, else 0."""
    parser = argparse.ArgumentParser(prog=prog, description=main.__doc__)
    parser.add_argument("file", type=Path, help="reference outputs (.npz)")
    parser.add_argument("--seed", type=int, required=True, help="seed of the generated weights")
    parser.add_argument("--network", choices=("small", "full"), required=True)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--allow-spread", action="store_true", help="let tracks differ by 4 times the effect of "
                        "rounding in float32, which is measured and printed")
    parser.add_argument("--bfloat16", action="store_true", help="also print the error of bfloat16 in the aggregator, "
                        "next to that of the published mode; more than 1.5 times that fails")
    options = parser.parse_args(arguments)
    if not options.file.is_file():
        print(f"parity: {options.file} does not exist", file=sys.stderr)
        return 1
    try:
        from vggt_ros.reconstruction.vggt.parity import (
            bfloat16_errors,
            compare,
            pseudo_random_network,
            track_rounding_error,
        )
    except ModuleNotFoundError as missing:
        print(f"parity: {missing.name} is not installed: pip install {missing.name}", file=sys.stderr)
        return 1
    from vggt_ros.reconstruction.vggt.sizes import PUBLISHED, SMALL

    print(f"generating the weights of the {options.network} network", file=sys.stderr, flush=True)
    try:
        network = pseudo_random_network({"small": SMALL, "full": PUBLISHED}[options.network], options.seed)
        errors = compare(options.file, network)
        spread = track_rounding_error(options.file, network) if options.allow_spread and "track_track" in errors else {}
        halves = bfloat16_errors(options.file, network) if options.bfloat16 else {}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        print(f"parity: {options.file} is not a file of reference outputs: {problem}", file=sys.stderr)
        return 1
    failed = []
    for name, error in errors.items():
        note = f"  rounding alone: {spread[name]:.1e}" if name in spread else ""
        if not error <= max(options.tolerance, 4 * spread.get(name, 0.0)):
            failed.append(name)
            note += "  FAILED"
        print(f"{name:<22} {error:.2e}{note}")
    for name, (ours, published) in halves.items():
        if not ours <= 1.5 * published:
            failed.append(f"{name} in bfloat16")
        print(f"{name:<22} bfloat16: {ours:.2e}, published mode {published:.2e}, ratio {ours / published:.2f}")
    print(f"FAILED: {', '.join(failed)}" if failed else "passed", f"(tolerance {options.tolerance:.0e})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
