"""parity: this package's VGGT against outputs of the published implementation, on generated or on real weights."""

from __future__ import annotations

import argparse
import math
import sys
import zipfile

from vggt_ros.arguments import given_path
from vggt_ros.cli.interrupts import ends_in_order


@ends_in_order()
def main(arguments: list[str] | None = None, prog: str = "parity") -> int:
    """Print how the network differs from the published one; return 1 if it differs by too much, else 0."""
    options = _parse(arguments, prog)
    if options.recorded is None and not options.file.is_file():
        print(f"parity: {options.file} is not a file", file=sys.stderr)
        return 1
    try:
        import vggt_ros.reconstruction.vggt.comparison.parity  # noqa: F401 (to name what is missing)
    except ModuleNotFoundError as missing:
        print(f"parity: {missing.name} is not installed: pip install {missing.name}", file=sys.stderr)
        return 1
    return _with_generated_weights(options) if options.recorded is None else _with_real_weights(options)


def _parse(arguments: list[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=main.__doc__)
    parser.add_argument("file", type=given_path, nargs="?", help="reference outputs for generated weights (.npz)")
    parser.add_argument("--seed", type=int, help="seed of the generated weights")
    parser.add_argument("--network", choices=("small", "full"))
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--allow-spread", action="store_true", help="let tracks differ by 4 times the effect of "
                        "rounding in float32, which is measured and printed")
    parser.add_argument("--bfloat16", action="store_true", help="also print the error of bfloat16 in the aggregator, "
                        "next to that of the published mode; more than 1.5 times that fails")
    parser.add_argument("--recorded", type=given_path, metavar="FOLDER", help="compare real weights with recorded runs "
                        "of the published code on the images of a folder (images/ and run_*.npz)")
    parser.add_argument("--weights", default="facebook/VGGT-1B", help="as the setting vggt.weights, with --recorded")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="with --recorded")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
                        help="with --recorded")
    options = parser.parse_args(arguments)
    if (options.recorded is None) == (options.file is None):
        parser.error("give a file, or --recorded FOLDER")
    if options.file is not None and (options.seed is None or options.network is None):
        parser.error("a file needs --seed and --network")
    return options


def _with_real_weights(options: argparse.Namespace) -> int:
    from vggt_ros.reconstruction.vggt.checkpoints.weight_files import WeightsError
    from vggt_ros.reconstruction.vggt.comparison.recorded_parity import compare_with_recorded
    from vggt_ros.reconstruction.vggt.device_errors import DeviceUnsuitable, device_problem
    try:
        spread, found = compare_with_recorded(options.recorded, options.weights, options.device, options.dtype)
    except (WeightsError, DeviceUnsuitable) as problem:
        print(f"parity: {problem}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        print(f"parity: {options.recorded} is not a folder of recorded runs: {problem}", file=sys.stderr)
        return 1
    except RuntimeError as problem:
        if not (text := device_problem(problem, options.device, "in the run")):
            raise
        print(f"parity: {text}", file=sys.stderr)
        return 1
    failed = []
    print(f"{'':<20} {'two runs':>10} " + " ".join(f"{name:>10}" for name in found))
    for item, limit in spread.items():
        wrong = [name for name, figures in found.items() if not math.isnan(limit) and not figures[item] <= limit]
        failed += [f"{item} of {name}" for name in wrong]
        print(f"{item:<20} {limit:>10.3f} " + " ".join(f"{figures[item]:>10.3f}" for figures in found.values())
              + ("  FAILED" if wrong else ""))
    print(f"FAILED: {', '.join(failed)}" if failed else "passed: it differs from the recorded runs by no more than two "
          "of them from each other")
    return 1 if failed else 0


def _with_generated_weights(options: argparse.Namespace) -> int:
    from vggt_ros.reconstruction.vggt.comparison.parity import (
        bfloat16_errors,
        compare,
        pseudo_random_network,
        track_rounding_error,
    )
    from vggt_ros.reconstruction.vggt.model.sizes import PUBLISHED, SMALL

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
