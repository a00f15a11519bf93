import logging
import zlib

import pytest

from lunaops.sources.receipts import Receipt, Receipts, Stamp, stamp_of


@pytest.fixture
def folders(tmp_path):
    """A folder that holds two files, and an empty one beside it."""
    previous, folder = tmp_path / "previous", tmp_path / "folder"
    for path in (previous, folder):
        path.mkdir()
    for name in ("a", "b"):
        (previous / name).write_text(name)
    return previous, folder


@pytest.fixture
def receipts(tmp_path, folders):
    previous, _ = folders
    receipts = Receipts(tmp_path / "part.json")
    receipts.add("a.zip", Receipt("0a", {name: stamp_of(previous / name) for name in ("a", "b")}))
    return receipts


def test_a_stamp_is_the_size_and_the_crc_of_all_blocks(tmp_path):
    content = bytes(range(256)) * (3 << 12)
    (tmp_path / "a").write_bytes(content)
    assert stamp_of(tmp_path / "a") == Stamp(len(content), zlib.crc32(content))


def test_what_is_written_is_read_again_and_equal_receipts_give_equal_bytes(tmp_path, receipts, folders):
    receipts.write()
    text = receipts.path.read_bytes()
    again = Receipts(receipts.path)
    assert again.md5_of("a.zip") == "0a"
    assert again.link_again("a.zip", *folders, md5="0a", files=["b", "a"])
    again.write()
    assert receipts.path.read_bytes() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "part.json", "previous"]


def test_a_download_without_a_receipt_is_passed_over_in_silence(receipts, folders, caplog):
    caplog.set_level(logging.INFO)
    assert receipts.md5_of("b.zip") is None
    assert not receipts.link_again("b.zip", *folders, md5=None, files=None)
    assert not caplog.text


@pytest.mark.parametrize(("md5", "files"), [("0b", None), (None, ["a"]), (None, ["a", "b", "c"])])
def test_another_download_or_other_members_of_it_are_not_what_was_unpacked(receipts, folders, md5, files, caplog):
    assert not receipts.link_again("a.zip", *folders, md5=md5, files=files)
    assert "wanted now" in caplog.text


def test_where_the_system_links_one_file_and_not_the_next_none_is_left(receipts, folders, caplog):
    previous, folder = folders
    (folder / "b").write_text("in the way")
    assert not receipts.link_again("a.zip", previous, folder, md5=None, files=None)
    assert not list(folder.iterdir())
    assert "cannot be hard-linked (File exists)" in caplog.text
