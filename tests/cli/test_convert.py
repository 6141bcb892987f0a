"""`coca convert`, as a user runs it."""

from pathlib import Path

from cococli.checkpoints.architecture import load_config

TINY = Path(__file__).parents[1] / "data/goldens/tiny"


def test_it_prints_the_path_of_what_it_wrote(coca, tmp_path: Path) -> None:
    written = tmp_path / "tiny.ckpt"
    run = coca("convert", TINY / "open_clip_pytorch_model.bin", written, "--verify")
    assert run.stdout == f"{written}\n"
    assert "million parameters" in run.stderr and "verified" in run.stderr
    assert run.returncode == 0
    assert written.stat().st_size > 1_000_000
    assert load_config(tmp_path / "tiny.json") == load_config(TINY / "config.json")


def test_what_is_no_checkpoint_is_exit_code_3_and_leaves_nothing(coca, tmp_path: Path) -> None:
    source = tmp_path / "notes.bin"
    source.write_text("not weights")
    run = coca("convert", source)
    assert run.stderr.startswith("error: ")
    assert (run.stdout, run.returncode) == ("", 3)
    assert list(tmp_path.iterdir()) == [source]


def test_an_unknown_config_is_found_before_the_weights_are_read(coca) -> None:
    run = coca("convert", "no-such-file.bin", "--config", "vit-l-15")
    assert "vit-l-14" in run.stderr
    assert run.returncode == 3
