"""What a submitter must say about systems and models, and what the runs say."""
