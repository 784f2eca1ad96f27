"""The commit that a result is traced to."""

import subprocess

from maml_tf import provenance


def git(folder, *arguments):
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *author, *arguments], check=True)


def test_a_commit_is_marked_if_code_differs_but_not_if_results_do(
    tmp_path, monkeypatch
):
    program, result = tmp_path / "package/x.py", tmp_path / "results/x.json"
    for path in (program, result):
        path.parent.mkdir()
        path.write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=x")
    monkeypatch.setattr(provenance, "__file__", str(program))
    clean = provenance.commit()
    result.write_text("2")
    assert provenance.commit() == clean
    program.write_text("2")
    assert provenance.commit() == f"{clean}+"
