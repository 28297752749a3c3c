package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
)

// Format says how tables are written.
type Format string

// The formats of tables.
const (
	FormatTable    Format = "table" // with lines around the cells
	FormatText     Format = "text"  // columns, without lines
	FormatMarkdown Format = "markdown"
	FormatCSV      Format = "csv"
	FormatJSON     Format = "json"
	FormatLines    Format = "jsonl" // a row a line
)

// table is a table of texts that are clean already.
type table struct {
	title string
	cols  []column
	rows  [][]string
	// marked are the rows to color.
	marked map[int]bool
	notes  []string // said below
}

type column struct {
	name  string
	right bool // numbers
	// flex columns are cut where the terminal is too narrow, the widest first.
	flex bool
	// text columns are flexible ones whose cells are broken into lines instead.
	text bool
	// spare columns are left out, highest first, where that is not enough.
	spare int
}

func (t *table) add(marked bool, row ...string) {
	if marked {
		if t.marked == nil {
			t.marked = map[int]bool{}
		}
		t.marked[len(t.rows)] = true
	}
	t.rows = append(t.rows, row)
}

// write writes the table in any format but JSON, which has its own rows.
func (t *table) write(w io.Writer, f Format, st Style) error {
	switch f {
	case FormatCSV:
		return t.csv(w)
	case FormatMarkdown:
		return t.markdown(w)
	case FormatTable, FormatText:
		return t.terminal(w, f, st)
	}
	return fmt.Errorf("format %q: not a format for tables", f)
}

func (t *table) options(r tw.Renderer) []tablewriter.Option {
	aligns := make(tw.Alignment, len(t.cols))
	for i, c := range t.cols {
		aligns[i] = tw.AlignLeft
		if c.right {
			aligns[i] = tw.AlignRight
		}
	}
	return []tablewriter.Option{
		tablewriter.WithRenderer(r),
		tablewriter.WithHeaderAutoFormat(tw.Off),
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithHeaderAlignmentConfig(tw.CellAlignment{PerColumn: aligns}),
		tablewriter.WithRowAlignmentConfig(tw.CellAlignment{PerColumn: aligns}),
		tablewriter.WithEastAsian(tw.Off),
	}
}

func (t *table) draw(w io.Writer, r tw.Renderer, rows [][]string) error {
	tbl := tablewriter.NewTable(w, t.options(r)...)
	head := make([]string, len(t.cols))
	for i, c := range t.cols {
		head[i] = c.name
	}
	tbl.Header(head)
	if err := tbl.Bulk(rows); err != nil {
		return fmt.Errorf("table %q: %w", t.title, err)
	}
	if err := tbl.Render(); err != nil {
		return fmt.Errorf("table %q: %w", t.title, err)
	}
	return nil
}

// markdownText keeps a cell from being read as markdown or HTML, as a link, or as
// a mention or number that a tracker would turn into one.
var markdownText = strings.NewReplacer(`\`, `\\`, "|", `\|`, "`", "\\`", "*", `\*`, "_", `\_`, "<", "&lt;", ">", "&gt;", "&", "&amp;",
	"[", `\[`, "]", `\]`, "~", `\~`, "@", "&#64;", "#", "&#35;", "$", "&#36;", "://", "&#58;//", "www.", "www&#46;")

func (t *table) markdown(w io.Writer) error {
	t = t.filled()
	rows := make([][]string, len(t.rows))
	for i, row := range t.rows {
		rows[i] = make([]string, len(row))
		for j, s := range row {
			rows[i][j] = markdownText.Replace(s)
		}
	}
	if t.title != "" {
		if _, err := fmt.Fprintf(w, "### %s\n\n", markdownText.Replace(t.title)); err != nil {
			return err
		}
	}
	if err := t.draw(w, renderer.NewMarkdown(), rows); err != nil {
		return err
	}
	for _, n := range t.notes {
		if _, err := fmt.Fprintf(w, "\n%s\n", markdownText.Replace(n)); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) terminal(w io.Writer, f Format, st Style) error {
	var out strings.Builder
	if t.title != "" {
		out.WriteString(st.paint(bold, t.title) + "\n")
	}
	t, rows := t.fit(f, st.Width)
	rendition := tw.Rendition{Symbols: tw.NewSymbols(tw.StyleLight)}
	if f == FormatText {
		rendition = tw.Rendition{
			Symbols: tw.NewSymbols(tw.StyleNone),
			Borders: tw.BorderNone,
			Settings: tw.Settings{
				Separators: tw.SeparatorsNone,
				Lines:      tw.LinesNone,
			},
		}
	}
	var drawn strings.Builder
	if err := t.draw(&drawn, renderer.NewBlueprint(rendition), rows); err != nil {
		return err
	}
	// The header takes one line, below the top border if there is one.
	first := map[Format]int{FormatTable: 3, FormatText: 1}[f]
	for i, line := range strings.Split(strings.TrimRight(drawn.String(), "\n"), "\n") {
		line = strings.TrimRight(line, " ")
		if t.marked[i-first] {
			line = st.paint(yellow, line)
		}
		out.WriteString(line + "\n")
	}
	for _, n := range t.notes {
		for _, l := range wrap(n, st.Width) {
			out.WriteString(l + "\n")
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// minFlex is how far a column may be cut, in columns of the terminal.
const minFlex = 10

// without gives the table without some columns.
func (t *table) without(drop func(i int) bool) *table {
	n := &table{title: t.title, marked: t.marked, notes: t.notes, rows: make([][]string, len(t.rows))}
	for i, c := range t.cols {
		if drop(i) {
			continue
		}
		n.cols = append(n.cols, c)
		for j := range t.rows {
			n.rows[j] = append(n.rows[j], t.rows[j][i])
		}
	}
	return n
}

// filled leaves out columns in which no row has anything.
func (t *table) filled() *table {
	return t.without(func(i int) bool {
		return len(t.rows) > 0 && !slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "" })
	})
}

// fit makes the table no wider than the terminal, as far as that can be: it
// cuts or breaks cells of flexible columns, and leaves out spare ones. The rows that it
// gives are those to draw.
func (t *table) fit(f Format, terminal int) (*table, [][]string) {
	t = t.filled()
	if terminal <= 0 {
		return t, t.rows
	}
	var dropped []string
	for {
		widths, over := t.widths(f, terminal)
		worst := -1
		for i, c := range t.cols {
			if c.spare > 0 && (worst < 0 || c.spare > t.cols[worst].spare) {
				worst = i
			}
		}
		if over > 0 && worst >= 0 {
			dropped = append(dropped, t.cols[worst].name)
			t = t.without(func(i int) bool { return i == worst })
			continue
		}
		if len(dropped) > 0 {
			t.notes = append(slices.Clone(t.notes), "The terminal is too narrow for: "+strings.Join(dropped, ", ")+".")
		}
		return t.lines(widths)
	}
}

// lines gives a row for each line of a cell. What is left of a row may be nothing.
func (t *table) lines(widths []int) (*table, [][]string) {
	all := t.without(func(int) bool { return false })
	all.rows, all.marked = nil, nil
	for i, row := range t.rows {
		for n := 0; ; n++ {
			some, line := false, make([]string, len(row))
			for j, s := range row {
				parts := []string{s}
				if t.cols[j].text {
					parts = wrap(s, widths[j])
				}
				if n < len(parts) {
					line[j] = cutMiddle(parts[n], widths[j])
					some = some || parts[n] != ""
				}
			}
			if !some {
				break
			}
			all.add(t.marked[i], line...)
		}
	}
	return all, all.rows
}

// widths gives the widths of the columns after cutting, and by how much the
// table is still too wide.
func (t *table) widths(f Format, terminal int) (widths []int, over int) {
	widths = make([]int, len(t.cols))
	over = 2*len(t.cols) - terminal // a blank on each side of a cell
	if f == FormatTable {
		over += len(t.cols) + 1
	}
	for i, c := range t.cols {
		widths[i] = width(c.name)
		for _, row := range t.rows {
			widths[i] = max(widths[i], width(row[i]))
		}
		over += widths[i]
	}
	for over > 0 {
		widest := -1
		for i, c := range t.cols {
			if (c.flex || c.text) && widths[i] > minFlex && (widest < 0 || widths[i] > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
		over--
	}
	return widths, over
}
