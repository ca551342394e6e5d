"""FastAPI dependencies of the routes."""

from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import Field

from sweeper import limits
from sweeper.api import Study
from sweeper.service.auth.identity import Accounts
from sweeper.service.settings import Settings
from sweeper.service.study_reader import StudyReader, StudyStatus


# `async` although they await nothing, because FastAPI runs other functions in threads.
async def study_reader(request: Request) -> StudyReader:
    """Return the reader of studies."""
    result: StudyReader = request.app.state.study_reader
    return result


async def settings(request: Request) -> Settings:
    result: Settings = request.app.state.settings
    return result


async def accounts(request: Request) -> Accounts:
    result: Accounts = request.app.state.accounts
    return result


StudyReaderDep = Annotated[StudyReader, Depends(study_reader)]
SettingsDep = Annotated[Settings, Depends(settings)]
AccountsDep = Annotated[Accounts, Depends(accounts)]
Word = Annotated[str, Field(max_length=limits.QUERY_TEXT_LENGTH)]
Reference = Annotated[str, Field(max_length=limits.REFERENCE_LENGTH)]
Name = Annotated[Word, Path()]


def get_study_by_path(name: Name, studies: StudyReaderDep) -> Study:
    """Return the study in the path; raises `UnknownName` if it does not exist."""
    return studies.study(name)


async def get_status_by_path(name: Name, studies: StudyReaderDep) -> StudyStatus:
    """Return the cached status of the study in the path; raises `UnknownName`."""
    return await studies.status.get(name)


StudyDep = Annotated[Study, Depends(get_study_by_path)]
StatusDep = Annotated[StudyStatus, Depends(get_status_by_path)]
