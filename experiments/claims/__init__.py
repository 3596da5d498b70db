"""The papers' sentences that can be tested: runs over seeds, intervals, verdicts by rules fixed in advance."""
