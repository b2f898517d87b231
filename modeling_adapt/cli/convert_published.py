"""Converts weights of the published ADAPT code (a `state_dict`) and a statistics file to a checkpoint folder."""

import sys

from ..files import require_empty_folder
from .command_line import CommandParser, whole_number

EXAMPLE = """example:
  python -m modeling_adapt.convert_published --stats stats.json --forces force.pth adapt-si"""


def main(argv: list[str] | None = None) -> None:
    as_module = sys.argv[0].endswith(".py")  # run by `python -m`, not as `adapt-convert`
    parser = CommandParser(__doc__, EXAMPLE, "python -m modeling_adapt.convert_published" if as_module else None)
    parser.add_argument("output_model", metavar="OUTPUT_MODEL", help="folder to write")
    parser.add_argument("--stats", required=True, metavar="FILE", help="normalisation statistics, .json or .pt")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--forces", metavar="FILE", help="state_dict of the force network (.pth)")
    weights.add_argument("--energy", metavar="FILE", help="state_dict of the energy network (.pth)")
    parser.add_argument(
        "--num-attention-heads",
        type=whole_number(1),
        default=8,
        metavar="N",
        help="heads of the force network, which its weights do not tell (default %(default)s)",
    )
    args = parser.parse_args(argv)

    from ..published_weights import convert_energy_weights, convert_force_weights, read_statistics, save_verified
    from ..torch_files import read_torch_file

    require_empty_folder(args.output_model)
    statistics = read_statistics(args.stats)
    if args.forces:
        model = convert_force_weights(read_torch_file(args.forces), statistics, args.num_attention_heads)
    else:
        model = convert_energy_weights(read_torch_file(args.energy), statistics)
    save_verified(model, args.output_model)
    print(f"{type(model).__name__}, {model.num_parameters():,} parameters, verified: {args.output_model}")
