"""The command that delivers what runs logged while MLflow was not there."""

import logging
from pathlib import Path

from lunaops.errors import InputError
from lunaops.tracking_delivery import JOURNALS, JournalDelivery, pending, remove_done
from lunaops.tracking_journal import delivery_lock, find_journals, is_delivered, leaving_unreadable, store_name_of
from lunaops.tracking_store import Store, asking, store_of

logger = logging.getLogger(__name__)


def sync_tracking(project: Path) -> None:
    """Deliver every pending journal of the store that MLFLOW_TRACKING_URI names.

    A journal that its own run, or another such command, is delivering is left to that. Raises InputError where the
    store is not there; what is delivered by then stays so.
    """
    store = store_of(project)
    if store is None:
        raise InputError("MLFLOW_TRACKING_URI is off: name the store to deliver to")
    for folder in pending(project, store):
        with delivery_lock(folder) as is_mine:
            if is_mine:
                _deliver(store, folder)
            else:
                logger.info("%s is being delivered by its own run or by another command", folder.name)
    remove_done(project)
    for folder in find_journals(project / JOURNALS):
        with leaving_unreadable(folder):
            other = store_name_of(folder)
            if other not in {None, store.name} and not is_delivered(folder):
                logger.info("%s belongs to %s: set MLFLOW_TRACKING_URI to that to deliver it", folder.name, other)
    logger.info("nothing else waits for %s", store.name)


def _deliver(store: Store, folder: Path) -> None:
    journal = JournalDelivery(store, folder, is_live=False)
    with asking(f"MLflow ({store.name}) failed; what waits for it is kept, deliver it later"):
        for _ in journal.deliver():
            pass
    logger.info("%s: %d entries delivered to run %s", folder.name, journal.num_delivered, journal.run_id)
