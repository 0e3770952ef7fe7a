"""What every room uses: options, differences, did-you-mean, text files, ids, progress."""
