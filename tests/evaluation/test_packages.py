"""Features and FID against the packages clean-fid and pytorch-fid themselves, with the same weights and files."""

import numpy as np
import pytest
import torch

from src.evaluation.features import extract_features, read_images
from src.evaluation.fid import frechet_distance
from src.evaluation.inception import Inception
from tests.evaluation.conftest import make_images, write_images
from tests.helpers import slow_but


def features_of_package(mode, folder, package_file, published_state, scratch):
    """The package's features of a folder, by its own network, resizer and loader."""
    if mode == "clean":
        fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed: pip install clean-fid")
        from cleanfid.inception_torchscript import InceptionV3W

        torch.jit.save(torch.jit.load(package_file).net, scratch / "inception-2015-12-05.pt")  # the name clean-fid looks for
        network = InceptionV3W(str(scratch), download=False).eval()
        return fid.get_folder_features(str(folder), network, num_workers=0, batch_size=8, device="cpu", verbose=False)
    from pytorch_fid import fid_score
    from pytorch_fid import inception as theirs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: published_state)
        network = theirs.InceptionV3([3]).eval()
    files = sorted(folder.glob("*.png"))
    return fid_score.get_activations(files, network, batch_size=8, dims=2048, device="cpu", num_workers=0)


def distance_of_package(mode, a, b):
    """The package's own FID of two sets of features."""
    if mode == "clean":
        from cleanfid.fid import fid_from_feats

        return fid_from_feats(a, b)
    from pytorch_fid.fid_score import calculate_frechet_distance

    return calculate_frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("clean-fid")


@pytest.mark.parametrize("mode", slow_but(["clean"], Inception.modes))
def test_features_and_fid_are_those_of_the_package(
    mode, image_folders, inception, feature_sets, package_file, published_state, scratch
):
    ours = feature_sets
    if mode != "clean":
        ours = [extract_features(read_images(folder), inception, mode) for folder in image_folders]
    theirs = [features_of_package(mode, folder, package_file, published_state, scratch) for folder in image_folders]
    for our, their in zip(ours, theirs, strict=True):
        assert our.shape == their.shape and our.dtype == np.float32
        np.testing.assert_allclose(our, their, atol=1e-3 * their.max())
        assert np.abs(our - their).mean() < 1e-4 * their.mean()
    # The packages' matrix root of all 2048 features takes half a minute: a quarter of them here, all in the slow test.
    some = slice(None, None, 4)
    expected = distance_of_package(mode, theirs[0][:, some], theirs[1][:, some])
    assert expected > 10
    assert frechet_distance(ours[0][:, some], ours[1][:, some]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_fid_of_48_images_is_that_of_the_package(tmp_path, inception, package_file, published_state, scratch):
    """Of clean-fid; test_statistics.py has pytorch-fid's."""
    mode = "clean"
    folders = [write_images(tmp_path / str(seed), make_images(seed, 48)) for seed in (3, 4)]
    ours = [extract_features(read_images(folder), inception, mode) for folder in folders]
    theirs = [features_of_package(mode, folder, package_file, published_state, scratch) for folder in folders]
    assert frechet_distance(*ours) == pytest.approx(distance_of_package(mode, *theirs), abs=1e-3)
