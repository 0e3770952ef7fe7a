"""The prefix tree of docIDs, the loss's weights on its nodes, the expert's path. numpy only."""
