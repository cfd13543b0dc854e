"""The descriptions of systems and models in a submission: from the submitter, the machine and the runs."""
