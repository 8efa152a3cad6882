/** The C header for the text of layout.ts. Throws where that exports anything but integer constants. */
export function layoutHeader(text: string): string;
