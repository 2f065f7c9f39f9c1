"""check: what holds on this machine and what does not, each with its cure."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

from vggt_ros.arguments import add_settings, given_path, new_file
from vggt_ros.benchmarks.check.conformance import check_reconstructor
from vggt_ros.benchmarks.check.machine import RED, run_checks, worst
from vggt_ros.cli.interrupts import ends_in_order
from vggt_ros.config import Config
from vggt_ros.parameter_text import parameter_file, reconstructor_settings, tables
from vggt_ros.sequences.opening import open_sequence
from vggt_ros.sequences.sequence import SequenceError
from vggt_ros.settings import ConfigError

_COLORS = {"green": "\033[32m", "yellow": "\033[33m", "red": "\033[31m"}


@ends_in_order(ConfigError, SequenceError, OSError)
def main(args: list[str] | None = None, prog: str = "check") -> int:
    """Print a line for each check; return 1 if one is red, else 0."""
    parser = argparse.ArgumentParser(prog=prog, description="Checks in about a minute what VGGT needs on this machine: "
                                     "versions, GPU, kernels, parity, weights, memory, speed, and a window against "
                                     "multiview. Nothing is downloaded.")
    add_settings(parser, "a setting that the node will have, such as vggt.weights or windows.size")
    parser.add_argument("--images", type=given_path, metavar="FOLDER", help="compare VGGT and multiview on eight of "
                        "these images, a folder or another recording (default: a rendered room)")
    parser.add_argument("--reconstructor", metavar="NAME", help="check instead whether this reconstructor, of this "
                        "package or a plug-in, keeps to the contract, on a rendered room")
    parser.add_argument("--parameters", action="store_true", help="with --reconstructor: print its settings, as a "
                        "parameter file and as a table, and nothing else")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write the findings there, as JSON")
    options = parser.parse_args(args)
    if options.parameters and not options.reconstructor:
        parser.error("--parameters needs --reconstructor NAME")
    findings, began, colored = [], time.monotonic(), sys.stdout.isatty()
    config = Config().parse([*options.set, *([f"reconstructor={options.reconstructor}"] if options.reconstructor
                                             else [])])
    if options.parameters:
        settings = reconstructor_settings(config, options.reconstructor)
        print("\n".join([parameter_file(settings), *tables(config, settings)]) if settings
              else f"{options.reconstructor} has no settings")
        return 0
    if options.images is not None:
        open_sequence(options.images)  # names what is wrong with it before a minute of other checks
    for finding in check_reconstructor(config) if options.reconstructor else run_checks(config, options.images):
        findings.append(finding)
        level = f"{finding.level:<6}"
        print(f"{_COLORS[finding.level]}{level}\033[0m" if colored else level, f"{finding.name:<16} {finding.text}",
              flush=True)
        if finding.cure:
            print(f"{'':<24}cure: {finding.cure}", flush=True)
    level, seconds = worst(findings), time.monotonic() - began
    not_checked = [finding.name for finding in findings if not finding.checked]
    if options.json:
        options.json.write_text(json.dumps({
            "level": level, "seconds": seconds, "not_checked": not_checked,
            "findings": [dataclasses.asdict(finding) for finding in findings]}, indent=2) + "\n")
    print(f"{level}: the worst of {len(findings)} checks, in {seconds:.0f} s"
          + (f"; not or only partly checked on this machine: {', '.join(not_checked)}" if not_checked else ""))
    return 1 if level == RED else 0


if __name__ == "__main__":
    sys.exit(main())
