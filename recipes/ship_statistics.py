"""The statistics of a challenge's reference images, for the kit to bring along: data/statistics/CHALLENGE.npz.

python -m recipes.ship_statistics --challenge mnist

Interrupted, the same command goes on after the last 1,000 images.
"""

from src.challenges import add_challenge_flag, get_challenge
from src.challenges.shared.images import ImageChallenge, as_rgb, fid_mode
from src.common.cli import Parser, UserError, run_script
from src.common.devices import resolve_device
from src.evaluation.features import cached_features, content_file
from src.evaluation.fid import distance_from_statistics
from src.evaluation.statistics import SHIPPED, cached_statistics, read_shipped, write_shipped

PROBE = 2000  # images whose FID by the exact and by the kept statistics is compared


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    add_challenge_flag(parser, default="mnist")
    parser.add_argument("--data_root", help="where the data are; by default the challenge's own folder")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given")
    args = parser.parse_args()
    challenge = get_challenge(args.challenge)
    if not isinstance(challenge, ImageChallenge):
        raise UserError(f"--challenge {challenge.name}: its samples are no images")
    judge, mode = challenge.load_feature_network(resolve_device(args.device), args.inception), fid_mode(challenge.metric)
    images = as_rgb(challenge.read_reference(args.data_root or challenge.default_root, challenge.reference_dir()))
    content = content_file(images, f"{mode} {judge.sha256}", "_statistics.npz").stem
    exact = cached_statistics(images, judge, mode, description=f"reference images, {mode}")
    file = SHIPPED / f"{challenge.name}.npz"
    write_shipped(exact, content, file)
    rounded, probe = read_shipped(content), cached_features(images, judge, mode)[:PROBE]
    fids = [distance_from_statistics(probe, each.mu, each.sigma) for each in (exact, rounded)]
    print(
        f"{file}: {len(images):,} images, {file.stat().st_size / 1e6:.1f} MB; FID of the first {len(probe):,} by the exact "
        f"statistics {fids[0]:.6f}, by those kept {fids[1]:.6f}"
    )


if __name__ == "__main__":
    run_script(main)
