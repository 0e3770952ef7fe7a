"""What every room uses and that knows none of them: files, differences, options, did-you-mean."""
