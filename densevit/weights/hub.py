"""Files of a model from and to the Hugging Face hub, with one sentence for everything that can go wrong there."""

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from densevit.errors import UserError

CHECK_TIMEOUT_S = 10
_ERRORS = (HTTPError, OSError, HFValidationError)
_LOGIN = "log in with `hf auth login`"


def download_file(name: str, file: str) -> Path:
    """The local copy of `file` in the repository "user/model" or "user/model@revision", fetched on first use.

    Works without a network once fetched. UserError where there is no such repository, revision or file, or no network.
    """
    repo, _, revision = name.partition("@")
    try:
        if not isinstance(try_to_load_from_cache(repo, file, revision=revision or None), str):
            # Fails at once where there is no network; the download alone would try again for half a minute.
            HfApi().repo_info(repo, revision=revision or None, timeout=CHECK_TIMEOUT_S)
        return Path(hf_hub_download(repo, file, revision=revision or None))
    except _ERRORS as error:
        raise UserError(_download_sentence(error, repo=repo, revision=revision, file=file)) from error


def upload_folder(folder: Path, repo: str, *, private: bool, message: str, token: str | None) -> str:
    """Create the repository "user/model" if need be and upload `folder` in one commit; returns its address.

    UserError without a token or the right to write, for a name that is none, or without a network.
    """
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, repo_type="model")
    except _ERRORS as error:
        raise UserError(_upload_sentence(error, repo=repo)) from error
    return f"{api.endpoint}/{repo}"


def _download_sentence(error: Exception, *, repo: str, revision: str, file: str) -> str:
    if isinstance(error, HFValidationError):
        return f"{repo!r} is neither a local path nor a Hugging Face name such as user/model"
    if isinstance(error, GatedRepoError):
        return f"the Hugging Face repository {repo} asks for its terms to be accepted: do so on its page, then {_LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{repo} is neither a local path nor a Hugging Face repository; if it is a private one, {_LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"the Hugging Face repository {repo} has no revision {revision!r}; give a branch, tag or commit"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return f"the Hugging Face repository {repo} has no {file}; it holds no model of densevit"
    return f"{repo} is no local path, and it cannot be fetched from Hugging Face ({_first_line(error)})"


def _upload_sentence(error: Exception, *, repo: str) -> str:
    if isinstance(error, HFValidationError):
        return f"{repo!r} is no Hugging Face name; give one such as user/model"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        return f"Hugging Face refuses to write to {repo}; {_LOGIN} and a token that may write there"
    return f"{repo} cannot be uploaded to Hugging Face ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
